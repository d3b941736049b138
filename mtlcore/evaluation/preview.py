"""A sheet to look at: what the encoder reads of a few images, what each pretext asks, the right answer and the model's.

    raw          | a column an image, as stored
    clean view   | as the encoder reads it in training
    <pretext>    | a row for each of its views
                 | the right answer, where its head knows an ideal one and the pretext can draw
                 | the model's answer, where a run is given

Images come from the validation split where there is one, since nobody trained on them, and are augmented as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..config.experiment import Experiment, PretextEntry
from ..contracts import (
    AugmentedBatch,
    Batch,
    BuildContext,
    Head,
    PreparedBatch,
    PretextTask,
    StepCounts,
    Target,
    View,
)
from ..data.dataset import RunData, open_data
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError
from ..model.hybrid import HybridModel
from ..model.views import prepare
from ..rng import KeyedRng, Rng
from ..runs import RunFolder
from ..weighting import Equal

CELL, GAP, TEXT = (
    96,
    4,
    14,
)  # pixels: the least side of an image, what is between two, the height of letters
TRIES = 16  # images that are tried for one column
CLEAN = "clean view"  # no identifier, so no pretext is called so


@frozen(eq=False)
class Strip:
    """One row of the sheet. label: its lines of text. images: (N, 3, H, W) float in [0, 1]."""

    label: str
    images: Tensor


def preview(experiment: Experiment, run: Path | None = None, images: int = 8) -> np.ndarray:
    """-> the sheet, (H, W, 3) uint8, one column an image.

    run: whose weights answer. Raises MtlError where its weights belong to another configuration.
    """
    data = open_data(experiment, splits={"train", "validation"}, lazy=True)
    return sheet(strips(data.experiment, some_images(data, images), run), experiment.input.size)


def some_images(data: RunData, n: int) -> Tensor:
    """(N, 3, S, S) uint8, evenly spaced over validation, or over train where that is too small.

    In the place of an unreadable one stands the next that can be read; where a few on end can't be, none does.
    """
    validation, train = (
        data.split.get(name, np.zeros(0, dtype=np.int64)) for name in ("validation", "train")
    )
    rows = validation if len(validation) >= n else train
    places = np.unique((np.arange(n) + 0.5) * len(rows) // n).astype(np.int64)
    found: list[Tensor] = []
    reason = "there is none"
    for start, end in pairwise([*places.tolist(), len(rows)]):
        for row in range(start, min(end, start + TRIES)):
            try:
                found.append(data.images.take(rows[row : row + 1]))
                break
            except MtlError as error:
                reason = str(error)
    if not found:
        raise MtlError(f"none of the images that a preview looked for can be read: {reason}")
    return torch.cat(found)


@torch.no_grad()
def strips(experiment: Experiment, images: Tensor, run: Path | None = None) -> list[Strip]:
    """What there is to see of raw uint8 images (N, 3, S, S)."""
    prepared = _questions(experiment, images)
    model = _model(experiment, run)
    asked = evolve(
        prepared, head_inputs={k: v for k, v in prepared.head_inputs.items() if k != CLEAN}
    )
    answers = (
        model.forward_heads(model.encode(prepared)[0], asked) if run and asked.head_inputs else {}
    )
    (seen,) = prepared.head_inputs[CLEAN][0].images
    found = [
        Strip(f"raw\n{_px(images)}", images / 255),
        Strip(f"{CLEAN}\n{_px(prepared.images[seen])}", prepared.images[seen]),
    ]
    for label, entry in experiment.pretexts.items():
        head_input = prepared.head_inputs[label][0]
        views = [(i, prepared.images[i]) for i in head_input.images]
        for number, (i, view) in enumerate(views, 1):
            if i != seen:
                found.append(Strip(f"{label}\nview {number} of {len(views)}, {_px(view)}", view))
        head = model.heads[label]
        assert isinstance(head, Head)
        where = " to view 1" if len(views) > 1 else ""
        drawn = _Drawn(label, where, entry.component, views[0][1], head_input.targets[0][0])
        found += [
            *drawn.right(head),
            *(drawn.given(a) for a in answers.get(label, ()) if drawn.draws),
        ]
    return found


def sheet(rows: Sequence[Strip], size: int) -> np.ndarray:
    """(H, W, 3) uint8: the rows below each other, their labels to the left, small images enlarged without smoothing.

    size: pixels of a side that are shown as whole blocks.
    """
    side = size * -(-CELL // size)
    font = ImageFont.load_default(TEXT)
    margin = 2 * GAP + max(
        round(font.getlength(line)) for s in rows for line in s.label.splitlines()
    )
    columns, step = max(len(s.images) for s in rows), side + GAP
    page = Image.new("RGB", (margin + columns * step + GAP, len(rows) * step + GAP), "white")
    pen = ImageDraw.Draw(page)
    for y, strip in enumerate(rows):
        pen.multiline_text((GAP, y * step + 2 * GAP), strip.label, fill="black", font=font)
        for x, cell in enumerate(_cells(strip.images, side)):
            page.paste(Image.fromarray(cell), (margin + x * step, y * step + GAP))
    return np.asarray(page)


# ---------------------------------------------------------------------------------------------------- what is asked


@frozen
class _Clean(PretextTask):
    """Asks nothing, and is never built: it makes the clean view one of those that are looked at."""

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        return [batch.clean], None

    def build(self, context: BuildContext) -> Head:
        raise NotImplementedError


def _questions(experiment: Experiment, images: Tensor) -> PreparedBatch:
    """What the first step of a run would make of these images, for the clean view and for every pretext."""
    pretexts = {
        label: evolve(e, samples="all", control="none") for label, e in experiment.pretexts.items()
    }
    looked = evolve(
        experiment,
        tasks={},
        pretexts={CLEAN: PretextEntry(_Clean()), **pretexts},
        weighting=Equal(),
    )
    n = len(images)
    return prepare(
        looked, Batch(images, {}, {}, StepCounts({}, n, n), 0), KeyedRng((experiment.seed, 0, 0))
    )


def _model(experiment: Experiment, run: Path | None) -> HybridModel:
    with torch.random.fork_rng(devices=[]), weights_from_checkpoint() if run else nullcontext():
        model = HybridModel(experiment).eval()
    if run is None:
        return model
    checkpoint = RunFolder.open(run).require("last")
    checkpoint.load(model, checkpoint.weights())
    return model


# ---------------------------------------------------------------------------------------------------- what is drawn


@frozen(eq=False)
class _Drawn:
    """One pretext's question about its first view, and images of answers to it."""

    label: str
    where: str
    task: PretextTask
    view: Tensor
    target: Target

    @property
    def draws(self) -> bool:
        return type(self.task).draw is not PretextTask.draw

    def right(self, head: Head) -> list[Strip]:
        """Nothing where the head knows no ideal answer, or the pretext can't draw one."""
        ideal: Callable[[Target], Any] | None = getattr(head, "ideal", None)
        if ideal is None or not self.draws or self.target is None:
            return []
        return [
            Strip(
                f"{self.label}\nthe right answer{self.where}",
                self.task.draw(self.view, self.target, ideal(self.target)),
            )
        ]

    def given(self, output: Any) -> Strip:
        return Strip(
            f"{self.label}\nthe model's answer{self.where}",
            self.task.draw(self.view, self.target, output),
        )


def _cells(images: Tensor, side: int) -> np.ndarray:
    """(N, 3, H, W) -> (N, side, side, 3) uint8."""
    images = images.float()
    if images.shape[-1] > side:
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    elif images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="nearest-exact")
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _px(images: Tensor) -> str:
    return f"{images.shape[-1]} px"
