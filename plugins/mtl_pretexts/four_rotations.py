"""Four rotations: predict the quarter turns of all four turned copies of an image.

This is the form of Gidaris, Singh, Komodakis 2018 (arXiv:1803.07728) and of S4L, Zhai et al. 2019,
"S4L: Self-Supervised Semi-Supervised Learning", arXiv:1905.03670: an image enters the batch in all
four turns, so it costs four forwards. `rotation` turns each image once, for one forward.

The order of the copies is drawn for each image. It changes no gradient.

Shapes: B square images; target (B, 4) int64, the quarter turns of the four views,
counter-clockwise; logits (B, 4 views, 4 turns).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from mtl_pretexts._shared import SURE, require_square
from mtl_pretexts.rotation import quarter_turns, turn
from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class FourRotations(PretextTask):
    """Classify the quarter turn of each of the four turned copies of an image."""

    cites = "Zhai, Oliver, Kolesnikov, Beyer, ICCV 2019, arXiv:1905.03670"
    reads_mixed = True

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[list[View], Tensor]:
        """Return the four turned images, and their quarter turns (B, 4)."""
        images = batch.clean.images
        height, width = images.shape[-2:]
        require_square(
            (height, width),
            "four_rotations turns images by 90 degrees and",
            f"set input.size = {max(height, width)}, or use local_rotation",
        )
        turns = rng.rand(len(images), 4).argsort(1)
        matrices = quarter_turns(width).to(turns.device, non_blocking=True)
        views = [
            batch.clean.rearrange(partial(turn, of_view), matrices[of_view])
            for of_view in turns.unbind(1)
        ]
        return views, turns

    def build(self, context: BuildContext) -> Head:
        return FourRotationsHead(context.info.dim)

    def undo(self, view: Tensor, target: Tensor) -> Tensor:
        """Turn the first view back, bit for bit."""
        return turn(-target[:, 0] % 4, view)

    def metrics(self) -> dict[str, Metric]:
        """accuracy: share of right turns (chance: 1/4)."""
        from torchmetrics.classification import MulticlassAccuracy

        class Accuracy(MulticlassAccuracy):
            def update(self, output: Tensor, target: Tensor) -> None:
                super().update(output.flatten(0, 1), target.flatten())

        return {"accuracy": Accuracy(4, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """Turn the images of the first view back by the predicted turn: upright if it is right."""
        return turn(-output[:, 0].argmax(1) % 4, images)


class FourRotationsHead(Head):
    """One linear layer, the same for the four views: (B, D) each -> logits (B, 4, 4)."""

    choices = 4

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Linear(dim, 4)

    def forward(self, *features: Features) -> Tensor:
        return torch.stack([self.answer(f.pooled) for f in features], 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy over the four views, (B,)."""
        return (
            F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
            .view(target.shape)
            .mean(1)
        )

    def ideal(self, target: Tensor) -> Tensor:
        """Return logits (B, 4, 4) with nearly all probability on the right turns."""
        return SURE * F.one_hot(target, 4).float()


@hookimpl
def mtl_components() -> list[type]:
    return [FourRotations]
