"""Rotation: predict the quarter turn of the whole image.

Gidaris, Singh, Komodakis 2018, "Unsupervised Representation Learning by Predicting Image
Rotations", arXiv:1803.07728. The paper puts all four turns of an image into the batch. Here each
image is turned once, at random: one forward. Supervised labels follow the turn.

Shapes: B square images; target (B,) int64, quarter turns counter-clockwise; logits (B, 4) of the
core's classification head.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from attrs import frozen
from torch import Tensor

from mtl_pretexts._shared import require_square
from mtlcore import (
    AugmentedBatch,
    BuildContext,
    Classification,
    Head,
    PretextTask,
    Rng,
    View,
    hookimpl,
)

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class Rotation(PretextTask):
    """Classify the quarter turn of the image, one of four."""

    cites = "Gidaris, Singh, Komodakis, ICLR 2018, arXiv:1803.07728"
    reads_mixed = True

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[list[View], Tensor]:
        """Return the turned image, and its quarter turns (B,)."""
        images = batch.clean.images
        height, width = images.shape[-2:]
        require_square(
            (height, width),
            "rotation turns images by 90 degrees and",
            f"set input.size = {max(height, width)}, or use local_rotation",
        )
        turns = rng.randint(4, len(images))
        matrices = quarter_turns(width).to(turns.device, non_blocking=True)
        view = batch.clean.rearrange(partial(turn, turns), matrices[turns])
        return [view], turns

    def build(self, context: BuildContext) -> Head:
        return Classification(classes=("0", "90", "180", "270"), dropout=0.0).build(context)

    def undo(self, view: Tensor, target: Tensor) -> Tensor:
        """Turn the images back, bit for bit."""
        return turn(-target % 4, view)

    def metrics(self) -> dict[str, Metric]:
        """accuracy: share of right turns (chance: 1/4)."""
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(4, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """Turn the images back by the predicted turn: upright if it is right."""
        return turn(-output.argmax(1) % 4, images)


def quarter_turns(size: int) -> Tensor:
    """(4, 3, 3): old -> new pixel coordinates for 0 to 3 quarter turns of a square image."""
    n = float(size)
    matrices = [
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.0, 1.0, 0.0], [-1.0, 0.0, n], [0.0, 0.0, 1.0]],
        [[-1.0, 0.0, n], [0.0, -1.0, n], [0.0, 0.0, 1.0]],
        [[0.0, -1.0, n], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    ]
    return torch.tensor(matrices)


def turn(turns: Tensor, maps: Tensor) -> Tensor:
    """Turn (B, C, H, W) by turns (B,) quarters."""
    # Make all four turns and select one: no sync with the host, no loop over samples.
    every = torch.stack([maps.rot90(k, (-2, -1)) for k in range(4)])
    return every[turns, torch.arange(len(maps), device=maps.device)]


@hookimpl
def mtl_components() -> list[type]:
    return [Rotation]
