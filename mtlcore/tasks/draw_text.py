"""Draw lines of text on an image, so that a person can read what a task predicts."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST_PX = 7  # the smallest readable letters
LINES_PER_HEIGHT = 7  # the default letters are this fraction of the image's height
BAND_OPACITY = 0.6
MARGIN_PX = 2  # left of the text


def draw_text(image: Tensor, *lines: str) -> Tensor:
    """Draw lines of text on a dark band at the bottom of an image.

    image: (3, H, W) float in [0, 1]. Returns the same shape, dtype and device.

    The letters scale with the image. If a line is too wide, all lines get smaller letters, down to
    7 pixels. Enlarge images below about 60 pixels first.
    """
    as_uint8 = (image.detach().float().clamp(0, 1) * 255).round().byte()
    pixels = as_uint8.permute(1, 2, 0).cpu().numpy()
    canvas = Image.fromarray(np.ascontiguousarray(pixels))
    font = _font_that_fits(lines, *canvas.size)
    line_height = sum(font.getmetrics())  # ascent and descent

    top = canvas.height - line_height * len(lines) - 1
    visible_top = max(top, 0)
    box = (0, visible_top, canvas.width, canvas.height)
    band = Image.new("RGB", (canvas.width, canvas.height - visible_top), "black")
    canvas.paste(Image.blend(canvas.crop(box), band, BAND_OPACITY), box)

    pen = ImageDraw.Draw(canvas)
    for i, line in enumerate(lines):
        pen.text((MARGIN_PX, top + i * line_height), line, fill="white", font=font)
    result = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
    return result.to(image.device, image.dtype) / 255


def in_digits(number: float, digits: int = 4) -> str:
    """Return a number without an exponent: "2009", "88.5", "0.0031".

    digits: its significant digits. Those before the decimal point are never rounded away.
    """
    if not math.isfinite(number):
        return str(number)
    first = math.floor(math.log10(abs(number))) if number else 0  # the place of the first digit
    decimals = max(digits - 1 - first, 0)
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def _font_that_fits(
    lines: tuple[str, ...],
    width: int,
    height: int,
) -> ImageFont.FreeTypeFont:
    size = max(SMALLEST_PX, height // LINES_PER_HEIGHT)
    font = _font(size)
    while size > SMALLEST_PX and max(font.getlength(line) for line in lines) > width - 3:
        size -= 1
        font = _font(size)
    return font


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    # Pillow returns its bitmap font only if no size is passed.
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
