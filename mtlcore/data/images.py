"""From a file's bytes to RGB pixels, and from any image to a square one.

JPEG goes through simplejpeg (1.7 to 6 times as fast as Pillow, the same pixels); whatever it can't take, and every
other format, goes through Pillow. What comes out is always (H, W, 3) uint8 RGB, upright. Broken bytes give an
`MtlError` that names the file and the reason, and nothing else: never a traceback.
"""

from __future__ import annotations

import io
import os

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import MtlError

FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "GIF",
    "TIFF",
    "WEBP",
    "PPM",
)  # no format that runs a program (EPS)
ORIENTATION = 0x0112  # the EXIF tag


def read_image(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """The image at `path`, below `root` where one is given -> (H, W, 3) uint8 RGB.

    A path that leaves the root ("../secret.png", "/etc/x.png") is refused; symbolic links are followed.
    Raises MtlError where the file is missing, is no image, is broken, or is too large to be one in earnest.
    """
    full = os.fspath(path) if root is None else _below(os.fspath(root), os.fspath(path))
    try:
        with open(full, "rb") as file:  # noqa: PTH123 (a Path costs a third of a small image's decoding)
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MtlError(f"{full} can't be read: {reason}") from error
    return decode_image(data, full)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """An encoded image -> (H, W, 3) uint8 RGB. `name` stands in the message of the MtlError for broken ones.

    EXIF rotation is applied; gray, palette, CMYK and 16-bit images become 8-bit RGB; transparent pixels become white.
    """
    if not data:
        raise MtlError(f"{name} is no readable image: the file is empty")
    if data.startswith(b"\xff\xd8"):
        image = _plain_jpeg(data, name)
        if image is not None:
            return image
    return _by_pillow(data, name)


def shrink(image: np.ndarray, side: int, enlarge: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 -> (side, side, 3): the central square, shrunk with antialiasing.

    Raises MtlError where the square is smaller than `side` and may not be enlarged, and where `image` is no such array.
    """
    square = central_square(image)
    if len(square) == side:
        return square
    if len(square) < side and not enlarge:
        h, w = image.shape[:2]
        raise MtlError(f"an image of {w} x {h} pixels is smaller than {side} x {side}")
    whole = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(whole.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0))


def central_square(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (s, s, 3), a view, s = min(H, W). Raises MtlError where `image` is no such array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise MtlError(f"an image must be (H, W, 3) uint8; got {image.shape} {image.dtype}")
    h, w = image.shape[:2]
    short = min(h, w)
    top, left = (h - short) // 2, (w - short) // 2
    return image[top : top + short, left : left + short]


def _below(root: str, path: str) -> str:
    full = os.path.normpath(os.path.join(root, path))  # noqa: PTH118 (pathlib keeps "..")
    base, there = os.path.abspath(root), os.path.abspath(full)  # noqa: PTH100 (as above; links are followed)
    if there != base and not there.startswith(base.rstrip(os.sep) + os.sep):
        raise MtlError(f"{path!r} leads out of {root}: an image must lie below the root")
    return full


# ------------------------------------------------------------------------------------------------ JPEG


def _plain_jpeg(data: bytes, name: str) -> np.ndarray | None:
    """The image, or None where Pillow must look at it: CMYK, a rotation, an oddity."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        _refuse_bomb(width, height, name)
        if colors not in ("YCbCr", "Gray") or (b"Exif" in data[: 1 << 16] and _is_rotated(data)):
            return None
        image: np.ndarray = simplejpeg.decode_jpeg(data, "RGB")
        return image
    except (ValueError, LookupError, RuntimeError, MemoryError) as error:
        if "remature end" in str(
            error
        ):  # Pillow would fill the rest with gray where an end marker follows
            raise _unreadable(name, "the file is truncated") from error
        return None


def _is_rotated(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # noqa: BLE001 (as in _by_pillow, which then says what is wrong)
        return True


# ------------------------------------------------------------------------------------------------ other formats


def _by_pillow(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_bomb(*image.size, name)
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except MtlError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
        raise _unreadable(name, _reason(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB. 16-bit gray is scaled, not clipped; transparent pixels become white."""
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if image.mode.startswith("I"):
        gray = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((gray + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = image.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    return image.convert("RGB")


def _refuse_bomb(width: int, height: int, name: str) -> None:
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
    return MtlError(f"{name} is no readable image: {reason}")
