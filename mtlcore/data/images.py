"""Decode images to RGB pixels, and shrink them to one size.

simplejpeg decodes JPEG: it is 1.7 to 6 times as fast as Pillow and returns the same pixels. Pillow
decodes every other format, and those JPEG files that simplejpeg can't handle. The result is always
(H, W, 3) uint8 RGB, upright. Broken files raise an `MtlError` that names the file and the reason;
no other exception leaves this module.
"""

from __future__ import annotations

import io
import os

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import MtlError
from ..files import read_file
from ..image_size import central_box

# EPS is missing on purpose: Pillow runs an external program to read it.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
ORIENTATION = 0x0112  # the EXIF tag
LARGEST_IMAGE = 1 << 29  # bytes of a file, 512 MiB: twice an uncompressed image of MAX_IMAGE_PIXELS
START_OF_SCAN = b"\xda"  # the marker of a JPEG file before its pixels


def read_image(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """Read the image at `path`, relative to `root` if that is set, as (H, W, 3) uint8 RGB.

    Symbolic links are followed. Raises MtlError if
    - the path leaves the root ("../secret.png", "/etc/x.png"),
    - the file is missing, is not an image, or is broken,
    - it is no regular file (a pipe, a device), or larger than 512 MiB,
    - the image has too many pixels to be a real one (a decompression bomb).
    """
    full = os.fspath(path) if root is None else _below(os.fspath(root), os.fspath(path))
    try:
        data = read_file(full, LARGEST_IMAGE)
    except OSError as error:
        raise MtlError(f"{full} can't be read: {error.strerror}") from error
    return decode_image(data, full)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB.

    The rotation of EXIF, or of XMP without EXIF, is applied. Gray, palette, CMYK and 16-bit images
    become 8-bit RGB. Transparent pixels become white.

    name: how the message of an MtlError calls the image. Raises MtlError for broken bytes.
    """
    if not data:
        raise MtlError(f"{name} is not a readable image: the file is empty")
    if data.startswith(b"\xff\xd8"):  # JPEG
        image = _decode_plain_jpeg(data, name)
        if image is not None:
            return image
    return _decode_with_pillow(data, name)


def from_pillow(image: Image.Image) -> np.ndarray:
    """Convert an image of Pillow to upright (H, W, 3) uint8 RGB, as `decode_image` does.

    Raises MtlError if its pixels can't be decoded or converted.
    """
    try:
        return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except Exception as error:  # Pillow decodes late, and raises nearly any exception then
        raise _unreadable(f"an image of Pillow, {image.mode}", _reason(error)) from error


def shrink(
    image: np.ndarray,
    size: tuple[int, int],
    enlarge: bool = False,
) -> np.ndarray:
    """Shrink the center of (H, W, 3) uint8 to (h, w, 3), with antialiasing.

    The center is the largest rectangle with the aspect ratio of `size`.

    size: (h, w).
    enlarge: whether a center smaller than `size` is enlarged.
    Raises MtlError if the center is smaller than `size` and `enlarge` is False, or if `image` is
    not a (H, W, 3) uint8 array.
    """
    center = central(image, size)
    if center.shape[:2] == size:
        return center
    height, width = size
    is_smaller = center.shape[0] < height or center.shape[1] < width
    if is_smaller and not enlarge:
        h, w = image.shape[:2]
        raise MtlError(f"an image of {w} x {h} pixels is smaller than {width} x {height}")
    full = Image.fromarray(np.ascontiguousarray(center))
    resized = full.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(resized)


def central(image: np.ndarray, ratio: tuple[int, int]) -> np.ndarray:
    """Return the largest central rectangle of (H, W, 3) uint8 with this ratio (h, w), as a view.

    (1, 1) is the central square. Raises MtlError if `image` is not such an array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise MtlError(f"an image must be (H, W, 3) uint8; got {image.shape} {image.dtype}")
    top, left, height, width = central_box((image.shape[0], image.shape[1]), ratio)
    return image[top : top + height, left : left + width]


def _below(root: str, path: str) -> str:
    """Join root and path. Raises MtlError if the result is outside of the root."""
    full = os.path.normpath(os.path.join(root, path))  # noqa: PTH118 (pathlib keeps "..")
    # abspath does not resolve symbolic links: a link inside the root may point anywhere.
    base = os.path.abspath(root)  # noqa: PTH100 (as above)
    target = os.path.abspath(full)  # noqa: PTH100 (as above)
    if target != base and not is_below(base, target):
        raise MtlError(f"{path!r} leads out of {root}: an image must be inside the root")
    return full


def is_below(root: str, full: str) -> bool:
    """Return whether `full` is inside `root`. Both must be normalized (no "." and "..")."""
    return full.startswith(root.rstrip(os.sep) + os.sep)


# ------------------------------------------------------------ JPEG


def _decode_plain_jpeg(data: bytes, name: str) -> np.ndarray | None:
    """Decode with simplejpeg, or return None if Pillow has to (CMYK, a rotation, an oddity)."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_bomb(width, height, name)
        if colors not in ("YCbCr", "Gray"):
            return None
        if _may_be_rotated(data) and _is_rotated(data):
            return None
        image: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
        return image
    except (ValueError, LookupError, RuntimeError, MemoryError) as error:
        # Pillow would fill the missing rest with gray if the file ends with an end marker.
        if "remature end" in str(error):
            raise _unreadable(name, "the file is truncated") from error
        return None


def _may_be_rotated(data: bytes) -> bool:
    """Whether the segments before the pixels hold EXIF, or XMP with an orientation."""
    head = _head(data)
    return b"Exif" in head or b"tiff:Orientation" in head


def _head(data: bytes) -> bytes:
    """Return a JPEG file up to its pixels; all of it if its segments can't be followed."""
    position = 2
    # A segment: 0xFF, its marker, and its length in two bytes, which includes these two.
    while data[position : position + 1] == b"\xff":
        if data[position + 1 : position + 2] == START_OF_SCAN:
            return data[:position]
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return data


def _is_rotated(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # noqa: BLE001 (_decode_with_pillow will then report what is wrong)
        return True


# ------------------------------------------------------------ other formats


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(*image.size, name)
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except MtlError:
        raise
    except Exception as error:  # Pillow's readers raise nearly any exception on broken bytes
        raise _unreadable(name, _reason(error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB. 16-bit gray is scaled, not clipped; transparent becomes white."""
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        eight_bit = ((gray + 128) // 257).astype(np.uint8)
        # A PNG file can name one gray value that is transparent (tRNS).
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            eight_bit[gray == transparent] = 255
        return Image.fromarray(eight_bit).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _refuse_bomb(
    width: int,
    height: int,
    name: str,
) -> None:
    """Raise MtlError if the image has more pixels than Pillow considers safe."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise _unreadable(
            name, f"{width} x {height} pixels are more than {limit}: a decompression bomb?"
        )


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"none of the formats {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels: a decompression bomb?"
    return str(error) or type(error).__name__


def _unreadable(name: str, reason: str) -> MtlError:
    return MtlError(f"{name} is not a readable image: {reason}")
