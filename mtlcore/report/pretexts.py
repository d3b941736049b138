"""What the pretexts ask, and what the run answers, on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..evaluation.decoded import failures_named
from ..evaluation.preview import CLEAN, some_images, strips
from ..evaluation.sheet import Strip, cells_of
from ..runs import RunFolder
from .blocks import Block, Gallery, Heading, Image, Missing, Table, Text
from .html import data_url
from .numbers import shown
from .opened import OpenedData

IMAGES = 6  # columns
CELL = 96  # CSS pixels of an image
GAP = 4


def pretext_table(metrics: Mapping[str, float], labels: Mapping[str, object]) -> list[Block]:
    """The last validation metrics of the pretexts."""
    rows = [(k, shown(v)) for k, v in metrics.items() if k.partition("/")[0] in labels]
    if not rows:
        return [Missing("metrics of the pretexts", "The run has no evaluation yet.")]
    return [Table("Last validation of the pretexts", ("metric", "value"), rows)]


def pretext_sheets(opened: OpenedData, folder: RunFolder) -> list[Block]:
    """A strip of images for each view, target and answer of each pretext."""
    experiment = opened.experiment
    with failures_named("a pretext"):
        images = some_images(opened.data, IMAGES)
        found = strips(experiment, images, folder.path, numbers=True)
    blocks: list[Block] = []
    by_label: dict[str, list[Strip]] = {}
    for strip in found:
        by_label.setdefault(strip.label.partition("\n")[0], []).append(strip)
    common = [strip for name in ("raw", CLEAN) for strip in by_label.pop(name, [])]
    blocks.append(Gallery("", [_image(strip) for strip in common], wide=True))
    for label, own in by_label.items():
        entry = experiment.pretexts[label].component
        first_line = (type(entry).__doc__ or "").strip().partition("\n")[0]
        blocks.append(Heading(label))
        if first_line:
            blocks.append(Text(first_line, quiet=True))
        blocks += _blocks_of(own)
    return blocks


def _blocks_of(own: list[Strip]) -> list[Block]:
    """Strips of images one below the other; what is written becomes a table."""
    drawn = [_image(strip) for strip in own if not strip.texts]
    written = [strip for strip in own if strip.texts]
    blocks: list[Block] = []
    if drawn:
        blocks.append(Gallery("", drawn, wide=True))
    if written:
        columns = ("", *(f"image {i + 1}" for i in range(IMAGES)))
        rows = []
        for strip in written:
            cells = [" / ".join(lines) for lines in strip.texts]
            rows.append((_second_line(strip), *cells[:IMAGES], *[""] * (IMAGES - len(cells))))
        blocks.append(Table("", columns, rows))
    if not drawn and not written:
        blocks.append(
            Text("It reads the clean view, and has no target that can be shown.", quiet=True)
        )
    return blocks


def _image(strip: Strip) -> Image:
    """A strip as one image: its columns side by side."""
    cells = torch.from_numpy(cells_of(strip.images, (CELL * 2, CELL * 2)))
    pixels = _row(cells)
    caption = strip.label.replace("\n", ", ")
    width = len(cells) * (CELL + GAP)
    return Image(data_url(pixels), f"{caption}: {len(cells)} images side by side", caption, width)


def _row(cells: Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (H, N (W + gap), 3), with white gaps."""
    n, height, width, _ = cells.shape
    page = np.full((height, n * (width + 2 * GAP), 3), 255, dtype=np.uint8)
    for i, cell in enumerate(cells.numpy()):
        left = i * (width + 2 * GAP)
        page[:, left : left + width] = cell
    return page


def _second_line(strip: Strip) -> str:
    return strip.label.partition("\n")[2]
