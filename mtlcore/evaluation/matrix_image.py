"""A confusion matrix as an image with class names, for logs that show images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL, GAP, FONT = 44, 8, 13  # pixels: a cell, the space around names, the height of letters
MOST_CLASSES = 40
LONGEST = 16  # letters of a class name


def matrix_image(matrix: Sequence[Sequence[float]], classes: Sequence[str]) -> np.ndarray | None:
    """Draw a matrix (K, K): true classes as rows, predicted classes as columns. (H, W, 3) uint8.

    The darker a cell, the larger its share of the row. None for more than 40 classes.
    """
    cells = np.asarray(matrix, dtype=float)
    if cells.ndim != 2 or max(cells.shape) > MOST_CLASSES:
        return None
    font = ImageFont.load_default(FONT)
    rows, columns = (_names(classes, n) for n in cells.shape)
    margin = round(max(font.getlength(name) for name in (*rows, *columns))) + 2 * GAP
    size = (margin + CELL * len(columns), margin + CELL * len(rows))
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for i, name in enumerate(rows):
        y = margin + CELL * i + CELL // 2
        pen.text((margin - GAP, y), name, fill="black", font=font, anchor="rm")
    for i, name in enumerate(columns):
        page.paste(_upright(name, margin, font), (margin + CELL * i, 0))
    shares = cells / np.maximum(cells.sum(1, keepdims=True), 1e-12)
    for y, x in np.ndindex(*cells.shape):
        _draw_cell(pen, margin, (x, y), float(shares[y, x]), f"{cells[y, x]:g}", font)
    return np.asarray(page)


def _draw_cell(
    pen: ImageDraw.ImageDraw,
    margin: int,
    at: tuple[int, int],
    share: float,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    left, top = margin + CELL * at[0], margin + CELL * at[1]
    level = round(255 * (1 - 0.85 * share))
    pen.rectangle((left, top, left + CELL - 2, top + CELL - 2), fill=(level, level, 255))
    color = "white" if share > 0.5 else "black"
    center = (left + CELL // 2, top + CELL // 2)
    pen.text(center, text, fill=color, font=font, anchor="mm")


def _upright(
    name: str, height: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> Image.Image:
    """A name from bottom to top, as wide as a cell."""
    strip = Image.new("RGB", (height, CELL), "white")
    ImageDraw.Draw(strip).text((GAP, CELL // 2), name, fill="black", font=font, anchor="lm")
    return strip.rotate(90, expand=True)


def _names(classes: Sequence[str], n: int) -> list[str]:
    names = list(classes) if len(classes) == n else [str(number) for number in range(n)]
    return [name[:LONGEST] for name in names]
