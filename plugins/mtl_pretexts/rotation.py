"""Rotation: by which quarter turn was the whole image turned?

Gidaris, Singh, Komodakis 2018, "Unsupervised Representation Learning by Predicting Image Rotations", arXiv:1803.07728. They put
all four turns of an image into the batch; here each image is turned once, at random: one forward. Labels follow the turn.
Shapes: B square images; target (B,) int64, quarter turns counter-clockwise; the core's classification head: logits (B, 4).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

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


@frozen
class Rotation(PretextTask):
    """Name the quarter turn of the image, one of four."""

    cites = "Gidaris, Singh, Komodakis, ICLR 2018, arXiv:1803.07728"

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[list[View], Tensor]:
        turns, n = rng.randint(4, len(batch.clean.images)), float(batch.clean.images.shape[-1])
        samples: list[list[float]] = [
            [1, 0, 0, 0, 1, 0],
            [0, 1, 0, -1, 0, n],
            [-1, 0, n, 0, -1, n],
            [0, -1, n, 1, 0, 0],
        ]
        quarter = torch.tensor([[*sample, 0, 0, 1] for sample in samples]).view(4, 3, 3)
        return [
            batch.clean.rearrange(
                partial(turn, turns), quarter.to(turns.device, non_blocking=True)[turns]
            )
        ], turns

    def build(self, context: BuildContext) -> Head:
        return Classification(classes=("0", "90", "180", "270"), dropout=0.0).build(context)

    def undo(self, view: Tensor, target: Tensor) -> Tensor:
        return turn(-target % 4, view)

    def metrics(self) -> dict[str, Any]:
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(4, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The image turned back as the answer says: upright where it is right."""
        return turn(-output.argmax(1) % 4, images)


def turn(turns: Tensor, maps: Tensor) -> Tensor:
    """(B, C, H, W) turned by (B,) quarters. All four turns are made and one is chosen: no loop over samples."""
    return torch.stack([maps.rot90(k, (-2, -1)) for k in range(4)])[
        turns, torch.arange(len(maps), device=maps.device)
    ]


@hookimpl
def mtl_components() -> list[type]:
    return [Rotation]
