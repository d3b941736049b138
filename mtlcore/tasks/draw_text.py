"""Words on an image, so that a person can read what a task answers. Knows no task."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALLEST, SHARE = (
    7,
    7,
)  # letters: pixels at least, and the part of the image's height that they take


def written(image: Tensor, *lines: str) -> Tensor:
    """(3, H, W) float in [0, 1] -> the same image with lines of text on a dark band at its foot.

    Letters are scaled to the image; a line that is too wide gets smaller ones, down to 7 pixels: enlarge what is smaller
    than about 60 pixels before. Same shape, dtype and device.
    """
    pixels = (
        (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    )
    canvas = Image.fromarray(np.ascontiguousarray(pixels))
    font = _fitting(lines, *canvas.size)
    step = sum(font.getmetrics())  # above the line, and below it
    top = canvas.height - step * len(lines) - 1
    band = Image.new("RGB", (canvas.width, canvas.height - max(top, 0)), "black")
    box = (0, max(top, 0), canvas.width, canvas.height)
    canvas.paste(Image.blend(canvas.crop(box), band, 0.6), box)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((2, top + number * step), line, fill="white", font=font)
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1).to(image.device, image.dtype) / 255


def _fitting(lines: tuple[str, ...], width: int, height: int) -> ImageFont.FreeTypeFont:
    size = max(SMALLEST, height // SHARE)
    font = _font(size)
    while size > SMALLEST and max(font.getlength(line) for line in lines) > width - 3:
        size -= 1
        font = _font(size)
    return font


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(
        font, ImageFont.FreeTypeFont
    )  # the bitmap font comes back only where no size is asked for
    return font
