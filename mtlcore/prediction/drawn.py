"""A page of one predicted image: the image with its boxes, and beside it what each task draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..evaluation.drawing import TILE

SMALLEST, LARGEST = 256, 960  # pixels: the shortest and longest side of the image on the page
GAP = 6  # pixels: the space around a drawing
FONT_PX = 16
SHORTEST = 4 * TILE  # pixels: the least height of a full column
MOST_REGIONS, MOST_LINES = 24, 6  # drawn on a page, and in a caption
COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")

Box = tuple[float, float, float, float]


def with_caption(image: Tensor, text: str) -> Tensor:
    """Write a text below an image (3, H, W), wrapped at commas. -> (3, H + lines, W)."""
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines = [""]
    for part in text.split(", "):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and pen.textlength(longer, _font()) > image.shape[-1] - GAP:
            lines.append(part)
        else:
            lines[-1] = longer
    lines = lines[:MOST_LINES]
    strip = Image.new("RGB", (image.shape[-1], len(lines) * (FONT_PX + GAP)), "white")
    pen = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        pen.text((GAP // 2, i * (FONT_PX + GAP)), line, fill="black", font=_font())
    below = torch.from_numpy(np.array(strip)).permute(2, 0, 1).float() / 255
    return torch.cat([image.cpu().float(), below], 1)


def page(
    image: np.ndarray,
    boxes: Sequence[Box | None],
    drawings: Sequence[Sequence[Tensor]],
    note: str = "",
) -> np.ndarray:
    """Draw one image (H, W, 3) uint8 with its regions. -> (H', W', 3) uint8.

    boxes: one for each region; None for the whole image. drawings: what the tasks draw for each.
    note: written below, such as why there is no region.
    """
    left = _with_boxes(image, boxes[:MOST_REGIONS])
    tiles = [_region(number, boxes[number], some) for number, some in _numbered(drawings)]
    more = len(drawings) - MOST_REGIONS
    lines = [note] if note else []
    if more > 0:
        lines.append(f"and {more} more regions")
    columns = _columns(tiles, max(left.height, SHORTEST))
    width = left.width + sum(column.width + GAP for column in columns)
    height = max([left.height, *(column.height for column in columns)])
    result = Image.new("RGB", (width, height + len(lines) * (FONT_PX + GAP)), "white")
    result.paste(left, (0, 0))
    x = left.width + GAP
    for column in columns:
        result.paste(column, (x, 0))
        x += column.width + GAP
    pen = ImageDraw.Draw(result)
    for i, line in enumerate(lines):
        pen.text((GAP, height + i * (FONT_PX + GAP)), line, fill="black", font=_font())
    return np.asarray(result)


def _numbered(drawings: Sequence[Sequence[Tensor]]) -> list[tuple[int, Sequence[Tensor]]]:
    return [(number, some) for number, some in enumerate(drawings[:MOST_REGIONS]) if some]


def _with_boxes(image: np.ndarray, boxes: Sequence[Box | None]) -> Image.Image:
    """The image, enlarged or shrunk to a size at which boxes and numbers are readable."""
    height, width = image.shape[:2]
    scale = min(max(1.0, SMALLEST / min(height, width)), LARGEST / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    shown = Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(shown)
    for number, box in enumerate(boxes):
        if box is None:
            continue
        color = COLORS[number % len(COLORS)]
        corners = [side * scale for side in box]
        pen.rectangle(corners, outline=color, width=3)
        # A face at the upper border still has its number inside the image.
        corner = (max(corners[0], 0.0), max(corners[1], 0.0))
        _tag(pen, corner, str(number + 1), color)
    return shown


def _region(number: int, box: Box | None, drawings: Sequence[Tensor]) -> Image.Image:
    """The drawings of one region side by side, in the color of its box and with its number."""
    images = [_to_pillow(drawing) for drawing in drawings]
    border = 0 if box is None else 3
    width = sum(image.width for image in images) + GAP * (len(images) - 1) + 2 * border
    height = max(image.height for image in images) + 2 * border
    color = COLORS[number % len(COLORS)] if box is not None else "white"
    tile = Image.new("RGB", (width, height), color)
    x = border
    for image in images:
        tile.paste(image, (x, border))
        x += image.width + GAP
    if box is not None:
        _tag(ImageDraw.Draw(tile), (0, 0), str(number + 1), color)
    return tile


def _columns(tiles: Sequence[Image.Image], height: int) -> list[Image.Image]:
    """Stack tiles in columns of about this height, at least one tile each."""
    groups: list[list[Image.Image]] = []
    for tile in tiles:
        used = sum(other.height + GAP for other in groups[-1]) if groups else height
        if used + tile.height > height or not groups:
            groups.append([])
        groups[-1].append(tile)
    columns: list[Image.Image] = []
    for group in groups:
        size = max(tile.width for tile in group), sum(tile.height + GAP for tile in group) - GAP
        column = Image.new("RGB", size, "white")
        y = 0
        for tile in group:
            column.paste(tile, (0, y))
            y += tile.height + GAP
        columns.append(column)
    return columns


def _tag(pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, color: str) -> None:
    """Write white text on a patch of this color."""
    x, y = corner
    width = pen.textlength(text, _font())
    pen.rectangle((x, y, x + width + 6, y + FONT_PX + 4), fill=color)
    pen.text((x + 3, y), text, fill="white", font=_font())


def _to_pillow(image: Tensor) -> Image.Image:
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy(force=True)))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_PX)
