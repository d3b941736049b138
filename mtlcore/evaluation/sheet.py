"""Sheets: one page of images with labels. Here are the layout, and the sheet of a checked dataset.

A sheet has one strip below the other: its label to the left, its images side by side. The sheets of
pretext tasks are in `preview`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from attrs import frozen
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import AlignedTask, Categories, Column, SupervisedTask
from ..data.aligned import StoredLabels, columns_of, joined_labels
from ..data.check import Report
from ..data.copies import disagree
from ..data.images import shrink
from ..data.splits import is_labeled
from ..errors import MtlError
from ..image_size import largest_of_ratio
from ..tasks.draw_text import draw_text

CELL, GAP = 96, 4  # pixels: the smallest size of an image, and the space between two
LABEL_FONT, CELL_FONT = 14, 11  # pixels: height of the letters

DATA_CELL, COLUMNS = 128, 8  # of the sheet of a dataset: pixels of an image, images in a strip
MAX_CLASSES, MAX_NUMERIC_STRIPS, MAX_GROUPS = 16, 3, 4
MAX_LABEL = 24  # characters of a class name

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


# ---------------------------------------------------------------------------------- the layout


@frozen(eq=False)
class Strip:
    """One strip of the sheet. label: lines of text. images: (N, 3, H, W) float in [0, 1].

    texts: the lines of each image, if the images show text alone.
    """

    label: str
    images: Tensor
    texts: Sequence[Sequence[str]] = ()


def sheet(strips: Sequence[Strip], size: tuple[int, int]) -> np.ndarray:
    """Draw the strips below each other. -> (H, W, 3) uint8.

    size: images of this size (h, w), in pixels, are enlarged in whole blocks to at least `CELL`
    pixels, without smoothing.
    """
    blocks = -(-CELL // min(size))
    cell = (size[0] * blocks, size[1] * blocks)
    row_step, column_step = cell[0] + GAP, cell[1] + GAP
    font = ImageFont.load_default(LABEL_FONT)
    margin = _label_width(strips, font) + 2 * GAP
    columns = max(len(strip.images) for strip in strips)
    width = margin + columns * column_step + GAP
    height = len(strips) * row_step + GAP
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for row, strip in enumerate(strips):
        y = row * row_step + GAP
        pen.multiline_text((GAP, y + GAP), strip.label, fill="black", font=font)
        for column, image in enumerate(cells_of(strip.images, cell)):
            x = margin + column * column_step
            page.paste(Image.fromarray(image), (x, y))
    return np.asarray(page)


def text_cells(texts: Sequence[Sequence[str]]) -> Tensor:
    """One image for each text, a sequence of lines. -> (N, 3, CELL, CELL) float in [0, 1]."""
    cells = np.stack([_text_cell(lines) for lines in texts])
    pixels = torch.from_numpy(cells).permute(0, 3, 1, 2)
    return pixels.float() / 255


def _label_width(strips: Sequence[Strip], font: Font) -> int:
    """The width of the longest line of all labels, in pixels."""
    widest = 0
    for strip in strips:
        for line in strip.label.splitlines():
            widest = max(widest, round(font.getlength(line)))
    return widest


def cells_of(images: Tensor, cell: tuple[int, int]) -> np.ndarray:
    """Scale images (N, 3, H, W) in [0, 1] to fit, padded with white. -> (N, *cell, 3) uint8."""
    images = images.float()
    old = (images.shape[-2], images.shape[-1])
    size = largest_of_ratio(cell, old)
    if old[1] > size[1]:
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    elif old != size:
        images = F.interpolate(images, size, mode="nearest-exact")
    images = F.pad(images, (0, cell[1] - size[1], 0, cell[0] - size[0]), value=1.0)
    pixels = (images.clamp(0, 1) * 255).round().byte()
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _text_cell(lines: Sequence[str]) -> np.ndarray:
    """(CELL, CELL, 3) uint8: black text on white, wrapped at spaces."""
    font = ImageFont.load_default(CELL_FONT)
    page = Image.new("RGB", (CELL, CELL), "white")
    pen = ImageDraw.Draw(page)
    text = ""
    for word in "\n ".join(lines).split(" "):
        longer = f"{text} {word}".strip(" ")
        last_line = longer.rsplit("\n", 1)[-1]
        fits = pen.textlength(last_line, font) < CELL - 4
        text = longer if fits else f"{text}\n{word.strip()}"
    pen.multiline_text((2, 2), text.strip(), fill="black", font=font)
    return np.asarray(page)


# ---------------------------------------------------------------------------------- a dataset


def label_sheet(experiment: Experiment, report: Report) -> np.ndarray:
    """Images of a checked dataset with their labels. -> (H, W, 3) uint8.

    On a sheet a wrong order of labels is seen at once. It has a strip for each class, or strips of
    numbers in rising order; strips of the maps and points that a task reads; then the first groups
    of copies whose labels differ. The task that reads a label draws it as it draws its own
    predictions; without such a task, the value is written on the image. Images that cannot be read
    are left out.
    """
    strips = _LabelStrips(experiment, report).all()
    return sheet(strips, (DATA_CELL, DATA_CELL))


@frozen(eq=False)
class _LabelStrips:
    """Makes the strips of a label sheet."""

    experiment: Experiment
    report: Report

    def all(self) -> list[Strip]:
        found: list[Strip] = []
        for name in self.report.reads:
            found += self.of_annotation(name)
        found += self.of_aligned()
        found += self.of_conflicts()
        if not found:
            some = _evenly(np.arange(len(self.report.index)), COLUMNS)
            found.append(Strip("no labels", self.images(some)))
        return found

    def of_annotation(self, name: str) -> Iterator[Strip]:
        values = self.report.index.annotations[name]
        if isinstance(values, Categories):
            return self.of_classes(name, values)
        return self.of_numbers(name, values)

    def of_aligned(self) -> Iterator[Strip]:
        """Strips of each map and of points that a task reads, drawn by the task."""
        for label, entry in self.experiment.tasks.items():
            task = entry.component
            column = columns_of(self.report.index).get(task.reads)
            if not isinstance(task, AlignedTask) or column is None:
                continue
            some = _evenly(np.flatnonzero(column.present), COLUMNS * MAX_NUMERIC_STRIPS)
            some = some[[self.is_readable(index) for index in some]]
            for start in range(0, len(some), COLUMNS):
                name = "" if start else f"{label}\n{task.reads}"
                yield self.of_labels(task, some[start : start + COLUMNS], name)

    def of_labels(self, task: AlignedTask, indices: np.ndarray, text: str) -> Strip:
        """A strip of images with the maps or points that a task reads."""
        index, size = self.report.index, (DATA_CELL, DATA_CELL)
        column = joined_labels(task.reads, {self.report.label: index}).subset(indices)
        stored = StoredLabels.of(column, size)
        dataset = self.experiment.data[self.report.label].component
        for position, number in enumerate(indices.tolist()):
            stored.write(position, task.reads, dataset.decode(index, number))
        answers = task.as_answer(stored.take(np.arange(len(indices))))
        images = self.images(indices)
        drawn = [task.draw(image, answer) for image, answer in zip(images, answers)]
        return Strip(text, torch.stack(drawn))

    def of_numbers(self, name: str, values: np.ndarray) -> Iterator[Strip]:
        """Samples in rising order of their first number, evenly spaced over all."""
        known = np.flatnonzero(is_labeled(values))
        if len(known):
            first = values[known].reshape(len(known), -1)[:, 0]
            known = known[np.argsort(first, kind="stable")]
        indices = _evenly(known, COLUMNS * MAX_NUMERIC_STRIPS)
        for start in range(0, len(indices), COLUMNS):
            label = "" if start else name
            yield self.strip(name, indices[start : start + COLUMNS], label)

    def of_classes(self, name: str, values: Categories) -> Iterator[Strip]:
        """One strip for each of the first classes."""
        classes, position = values[is_labeled(values)].unique()
        counts = np.bincount(position, minlength=len(classes))
        for i, label in enumerate(classes[:MAX_CLASSES].tolist()):
            indices = _evenly(np.flatnonzero(values == label), COLUMNS)
            text = f"{label[:MAX_LABEL]}\n{counts[i]} samples"
            yield self.strip(name, indices, text)

    def of_conflicts(self) -> Iterator[Strip]:
        """One strip for each of the first groups of copies whose labels differ."""
        index = self.report.index
        position = {str(key): i for i, key in enumerate(index.keys)}
        for keys in self.report.conflicting[:MAX_GROUPS]:
            indices = np.array([position[key] for key in keys])
            text = f"{len(keys)} copies,\nlabels differ"
            for name in self.report.reads:
                if disagree(indices, [index.annotations[name]]):
                    yield self.strip(name, indices[:COLUMNS], text)
                    break

    def strip(self, name: str, indices: np.ndarray, label: str) -> Strip:
        """A strip of images with the annotation `name` drawn on each."""
        indices = indices[[self.is_readable(index) for index in indices]]
        images = self.images(indices)
        values = self.report.index.annotations[name]
        drawn = self.drawn_by_task(name, images, values, indices)
        if drawn is None:
            texts = [_text(value) for value in values[indices]]
            drawn = [draw_text(image, text) for image, text in zip(images, texts)]
        if drawn:
            images = torch.stack(drawn)
        return Strip(label, images)

    def drawn_by_task(
        self,
        name: str,
        images: Tensor,
        values: Column,
        indices: np.ndarray,
    ) -> list[Tensor] | None:
        """The images with their labels, as the task draws them; None if it cannot draw these."""
        task = self.task_of(name)
        if task is None or type(task).draw is SupervisedTask.draw:
            return None
        try:
            fitted = task.fit(np.asarray(values[is_labeled(values)]))
            target, present = fitted.target(np.asarray(values[indices]))
        except MtlError:
            return None
        predictions = fitted.as_answer(target)
        drawn: list[Tensor] = []
        for i, image in enumerate(images):
            if present[i]:
                drawn.append(fitted.draw(image, predictions[i]))
            else:
                drawn.append(draw_text(image, "no label"))
        return drawn

    def task_of(self, annotation: str) -> SupervisedTask | None:
        """The first task that reads this annotation."""
        for entry in self.experiment.tasks.values():
            if entry.component.reads == annotation:
                return entry.component
        return None

    def images(self, indices: np.ndarray) -> Tensor:
        """(N, 3, DATA_CELL, DATA_CELL) float in [0, 1]."""
        dataset = self.experiment.data[self.report.label].component
        squares = []
        for index in indices:
            sample = dataset.decode(self.report.index, int(index))
            squares.append(shrink(sample.image, (DATA_CELL, DATA_CELL), enlarge=True))
        # Without images the array has no shape of its own.
        pixels = np.array(squares, dtype=np.uint8)
        pixels = pixels.reshape(-1, DATA_CELL, DATA_CELL, 3)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255

    def is_readable(self, index: int) -> bool:
        key = str(self.report.index.keys[index])
        return key not in self.report.missing and key not in self.report.unreadable


def _evenly(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices, evenly spaced."""
    count = min(count, len(indices))
    positions = np.linspace(0, len(indices) - 1, count).round()
    return indices[np.unique(positions.astype(np.int64))]


def _text(value: object) -> str:
    """An annotation in a few characters."""
    if isinstance(value, np.ndarray):
        return ", ".join(f"{number:.3g}" for number in value.ravel()[:4])
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:MAX_LABEL]
