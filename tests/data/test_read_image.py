"""Reading images: every valid kind is decoded correctly, every broken kind is an MtlError."""

from __future__ import annotations

import io
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mtlcore import MtlError, read_image
from mtlcore.data.images import _head, decode_image, from_pillow, shrink

ROOT = Path(__file__).resolve().parents[2]


def photo(h: int = 40, w: int = 32, seed: int = 0) -> np.ndarray:
    """A smooth image with some noise, (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize(
        (w, h), Image.Resampling.BICUBIC
    )
    return (
        (np.asarray(small).astype(int) + rng.integers(-8, 8, (h, w, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_color_jpeg_reads_as_pillow_reads_it(subsampling, progressive):
    data = encoded(
        Image.fromarray(photo()),
        "JPEG",
        subsampling=subsampling,
        progressive=progressive,
        quality=90,
    )
    np.testing.assert_array_equal(
        decode_image(data, "x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    )


def test_a_gray_jpeg_becomes_rgb_with_three_equal_channels():
    data = encoded(Image.fromarray(photo()).convert("L"), "JPEG")
    found = decode_image(data, "x")
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert found.shape == (40, 32, 3)
    np.testing.assert_array_equal(found[..., 0], found[..., 2])


def test_a_cmyk_jpeg_becomes_rgb():
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow ink: red
    found = decode_image(encoded(image, "JPEG", quality=100), "x")
    assert found.shape == (8, 8, 3)
    assert found[..., 0].min() > 240
    assert found[..., 1:].max() < 15


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_exif_rotation_is_applied(form):
    upright = np.asarray(Image.fromarray(photo(24, 16)).convert("L").convert("RGB"))
    options = {"quality": 100} if form == "JPEG" else {}
    for orientation, turn in ((1, 0), (3, 2), (6, 3), (8, 1)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright, -turn)))
        found = decode_image(encoded(stored, form, exif=exif, **options), "x")
        assert found.shape == (24, 16, 3)
        assert np.abs(found.astype(int) - upright).max() <= (4 if form == "JPEG" else 0)


@pytest.mark.parametrize("pair", ['="6"', ">6<"])
@pytest.mark.parametrize("profile", [0, 150_000])
def test_an_orientation_in_xmp_alone_is_applied(pair, profile):
    """Some editors write no EXIF. A color profile can be longer than a segment of 64 KiB."""
    options = {"xmp": f"<x tiff:Orientation{pair}/>".encode(), "icc_profile": b"x" * profile}
    data = encoded(Image.fromarray(photo(16, 24)), "JPEG", quality=90, **options)
    assert b"Exif" not in data
    found = decode_image(data, "x")
    assert found.shape == (24, 16, 3)
    np.testing.assert_array_equal(found, from_pillow(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\xff\xd8\xff\xff\xe0\0\2x"])
def test_segments_that_cannot_be_followed_are_searched_to_the_end(data):
    assert _head(data) == data


def test_a_gray_value_that_is_transparent_becomes_white_in_sixteen_bits():
    values = np.array([[0, 257, 32896, 32897]], dtype=np.uint16)
    data = encoded(Image.fromarray(values), "PNG", transparency=32896)
    assert decode_image(data, "x")[0, :, 0].tolist() == [0, 1, 255, 128]


def test_the_onnx_example_reads_the_same_pixels():
    """The example stands alone, so it has its own function for this."""
    text = (ROOT / "examples" / "onnx_predict.py").read_text()
    names: dict[str, Any] = {}
    exec(text.partition("session = ")[0].replace("import onnxruntime", ""), names)
    values = np.array([[0, 257, 32896, 32897]], dtype=np.uint16)
    gray = encoded(Image.fromarray(values), "PNG", transparency=32896)
    turned = encoded(Image.fromarray(photo()), "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    for data in (gray, turned):
        own = decode_image(data, "x")
        found = names["stored"](io.BytesIO(data), *own.shape[:2])
        np.testing.assert_array_equal(found.transpose(1, 2, 0), own)


def test_sixteen_bit_gray_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    found = decode_image(encoded(Image.fromarray(values), "PNG"), "x")
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_palette_image_has_the_colors_of_its_palette():
    image = Image.fromarray(photo()).quantize(16)
    np.testing.assert_array_equal(
        decode_image(encoded(image, "PNG"), "x"), np.asarray(image.convert("RGB"))
    )


def test_black_and_white_bits_become_0_and_255():
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert decode_image(encoded(image, "PNG"), "x").tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white_and_opaque_ones_keep_their_color(mode):
    image = Image.new("RGBA", (2, 1), (10, 10, 10, 255))
    image.putpixel((1, 0), (10, 10, 10, 0))
    assert decode_image(encoded(image.convert(mode), "PNG"), "x").tolist() == [
        [[10] * 3, [255] * 3]
    ]


def test_other_formats_go_through_pillow(subtests):
    for form in ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"]:
        with subtests.test(form=form):
            image = Image.fromarray(photo())
            data = encoded(image, form, **({"lossless": True} if form == "WEBP" else {}))
            np.testing.assert_array_equal(
                decode_image(data, "x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            )


# ------------------------------------------------------------ bad ones


def png_header(width: int, height: int) -> bytes:
    """A valid PNG signature and IHDR for an image of this size, without its pixels."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def giant_jpeg() -> bytes:
    """A small JPEG whose header claims 65,000 x 65,000 pixels."""
    data = bytearray(encoded(Image.fromarray(photo()), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65000, 65000)
    return bytes(data)


def ordinary(form: str) -> bytes:
    return encoded(Image.fromarray(photo()), form)


BAD = {
    "empty": b"",
    "text": b"this is no image",
    "only a JPEG marker": b"\xff\xd8\xff",
    "half a JPEG": ordinary("JPEG")[: len(ordinary("JPEG")) // 2],
    "half a JPEG with an end marker": ordinary("JPEG")[: len(ordinary("JPEG")) // 2] + b"\xff\xd9",
    "half a PNG": ordinary("PNG")[: len(ordinary("PNG")) // 2],
    "half a BMP": ordinary("BMP")[: len(ordinary("BMP")) // 2],
    "a PNG with wrong checksums": ordinary("PNG").replace(b"IHDR", b"IHDX"),
    "a bomb as JPEG": giant_jpeg(),
    "a bomb as PNG": png_header(60000, 60000),
    "a larger bomb as PNG": png_header(2**31 - 1, 2**31 - 1),
    "a program for a printer": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "floats": encoded(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_is_an_error_that_names_the_file_and_the_reason(tmp_path, subtests):
    for kind in BAD:
        with subtests.test(kind=kind):
            (tmp_path / "face.jpg").write_bytes(BAD[kind])
            with pytest.raises(MtlError, match=r"face\.jpg is not a readable image: .") as caught:
                read_image("face.jpg", tmp_path)
            if "bomb" in kind:
                assert "bomb" in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_image_just_over_the_limit_is_refused_and_one_at_it_is_read(form, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 32)
    assert decode_image(ordinary(form), "x").shape == (40, 32, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 32 - 1)
    with pytest.raises(MtlError, match="32 x 40 pixels are more than 1279"):
        decode_image(ordinary(form), "x")


@pytest.mark.parametrize("name", ["missing.jpg", ".", "nul\0l.jpg"])
def test_a_path_that_is_no_file_is_an_error_that_names_it(name, tmp_path):
    with pytest.raises(MtlError, match=r"can't be read: \w"):
        read_image(name, tmp_path)


@pytest.mark.parametrize(
    "path", ["../secret.png", "a/../../secret.png", "/etc/secret.png", "../root-not/x.png"]
)
def test_a_path_that_leaves_the_root_is_refused(path, tmp_path):
    with pytest.raises(MtlError, match="leads out of"):
        read_image(path, tmp_path / "root")


@pytest.mark.parametrize("root", [".", "", "below/.."])
def test_a_relative_root_holds_its_own_images_and_no_others(root, tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    for place in ("x.png", "here/x.png", "here/below/x.png"):
        Image.fromarray(photo()).save(tmp_path / place)
    monkeypatch.chdir(tmp_path / "here")
    for path in ("x.png", "below/x.png", str(tmp_path / "here" / "x.png")):
        np.testing.assert_array_equal(read_image(path, root), photo())
    np.testing.assert_array_equal(read_image("x.png", Path(root)), photo())
    for path in ("../x.png", "below/../../x.png", str(tmp_path / "x.png")):
        with pytest.raises(MtlError, match="leads out of"):
            read_image(path, root)


def test_a_path_may_contain_dots_inside_the_root(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "x.png").write_bytes(ordinary("PNG"))
    np.testing.assert_array_equal(read_image("a/../x.png", tmp_path), photo())
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), photo())


@lru_cache
def specimens() -> tuple[bytes, ...]:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(photo(16, 16))
    return (
        encoded(image, "JPEG"),
        encoded(image, "JPEG", progressive=True, exif=exif),
        encoded(image.convert("L"), "JPEG"),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "PNG", exif=exif),
        encoded(image.quantize(8), "PNG"),
        encoded(image, "GIF"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "BMP"),
        encoded(image, "WEBP"),
    )


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200)
@given(data=st.data())
def test_mutated_files_give_pixels_or_an_mtl_error_and_nothing_else(data):
    raw = bytearray(data.draw(st.sampled_from(specimens())))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]
    try:
        image = decode_image(bytes(raw), "mutant")
    except MtlError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


# ------------------------------------------------------------ shrink


def test_shrinking_takes_the_central_square():
    image = np.zeros((4, 10, 3), dtype=np.uint8)
    image[:, 3:7] = 200
    assert (shrink(image, (2, 2)) == 200).all()
    assert (shrink(np.ascontiguousarray(image.transpose(1, 0, 2)), (2, 2)) == 200).all()


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert (
        np.abs(shrink(stripes, (16, 16)).astype(int) - 127.5).max() < 12
    )  # every 4th column alone would be 0 or 255


def test_an_image_of_the_right_size_does_not_change():
    image = photo(20, 20)
    np.testing.assert_array_equal(shrink(image, (20, 20)), image)


def test_an_image_is_enlarged_only_on_request():
    with pytest.raises(MtlError, match="32 x 40 pixels is smaller than 48 x 48"):
        shrink(photo(), (48, 48))
    assert shrink(photo(), (48, 48), enlarge=True).shape == (48, 48, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_array_that_is_no_image_is_refused(image):
    with pytest.raises(MtlError, match=r"must be \(H, W, 3\) uint8"):
        shrink(image, (2, 2))
