"""Decode masks: images whose pixels are class numbers.

A gray mask holds the numbers themselves, and so does a palette (the numbers are the positions in
it, as in PASCAL VOC). A mask in colors needs a table of colors. JPEG is refused: it changes
numbers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MtlError
from ..files import read_file
from .images import LARGEST_IMAGE

MASKS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".pgm")
FORMATS = ("PNG", "BMP", "GIF", "TIFF", "PPM")
NUMBERS = {
    "1": "uint8",
    "L": "uint8",
    "P": "uint8",
    "I": "uint16",
    "I;16": "uint16",
    "I;16B": "uint16",
}
"""Pillow's modes of masks that hold numbers -> their dtype."""
SHOWN = 3  # colors in a message

Colors = Mapping[str, tuple[int, ...]]
"""Name of a class -> its RGB, in the order of the class numbers."""


def read_mask(file: Path, colors: Colors) -> np.ndarray:
    """Read a mask as class numbers (H, W), uint8 or uint16.

    colors: the table of a mask in colors; empty if the masks hold numbers.

    Raises MtlError if the file can't be read, or if its pixels are not numbers, or not of these
    colors.
    """
    try:
        data = read_file(file, LARGEST_IMAGE)
    except OSError as error:
        raise MtlError(f"the mask {file} can't be read: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if colors:
                return _numbers_of(np.asarray(image.convert("RGB")), colors, file)
            if image.mode not in NUMBERS:
                raise MtlError(
                    f"the mask {file} is in colors ({image.mode}); expected class numbers (gray, "
                    "or a palette), or a table of colors, such as "
                    "colors = { road = [128, 64, 128], ... } in the order of the numbers"
                )
            numbers = np.array(image)
    except MtlError:
        raise
    except Exception as error:  # Pillow's readers raise nearly any exception on broken bytes
        raise MtlError(f"the mask {file} is not a readable image: {error}") from error
    if numbers.dtype.itemsize == 1:
        return numbers.astype(np.uint8)
    return numbers.astype(np.uint16)  # Pillow reads some 16-bit files as 32 bits


def mask_dtype(file: Path, colors: Colors) -> str:
    """Return the dtype of a mask from the head of its file: "uint8", unless it has 16 bits."""
    if colors:
        return "uint8"
    try:
        with Image.open(file, formats=FORMATS) as image:
            return NUMBERS.get(image.mode, "uint8")
    except Exception:  # noqa: BLE001 - `read_mask` will report what is wrong
        return "uint8"


def _numbers_of(pixels: np.ndarray, colors: Colors, file: Path) -> np.ndarray:
    """Convert RGB pixels (H, W, 3) to class numbers (H, W) uint8."""
    codes = _codes(pixels)
    table = _codes(np.array(list(colors.values())))
    order = np.argsort(table)
    at = np.searchsorted(table[order], codes).clip(max=len(table) - 1)
    found = order[at]
    wrong = table[found] != codes
    if wrong.any():
        unknown = np.unique(pixels[wrong], axis=0)[:SHOWN].tolist()
        raise MtlError(
            f"the mask {file} has {int(wrong.sum())} pixels in colors that are not in `colors`, "
            f"such as {', '.join(map(str, unknown))}; expected one of the {len(colors)} in it"
        )
    return found.astype(np.uint8)


def _codes(rgb: np.ndarray) -> np.ndarray:
    """Return one number for each color (..., 3)."""
    wide = rgb.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
