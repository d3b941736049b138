"""plugin_name: some images are turned upside down; which ones?

Replace this by your own question: what is asked, why an encoder learns something by answering it, and the paper it comes from.
Shapes: B images (B, 3, H, W) in [0, 1], D features (B, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor, nn

from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl


@frozen
class PluginName(PretextTask):
    """Say which images were turned upside down.

    share: of the images that are turned.
    """

    name = "plugin_name"
    cites = "original"
    share: float = field(default=0.5, validator=and_(ge(0.0), le(1.0)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """-> one view, (B,) int64: 1 where it was turned."""
        clean = batch.clean
        turned = rng.rand(len(clean.images)) < self.share

        def move(maps: Tensor) -> Tensor:
            """Acts on the images now, and on labels that are maps later."""
            return upside_down(turned, maps)

        return [clean.rearrange(move, half_turn(turned, clean.images))], turned.long()

    def build(self, context: BuildContext) -> Head:
        return PluginNameHead(context.info.dim)

    def undo(self, view: Tensor, target: Tensor) -> Tensor:
        """The clean images, bit for bit: with it the conformance kit proves that the answers are true."""
        return upside_down(target.bool(), view)

    def metrics(self) -> dict[str, Any]:
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(2, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The view as the answer would put it right."""
        return upside_down(output.argmax(1).bool(), images)


class PluginNameHead(Head):
    """(B, D) -> (B, 2) logits: upright, upside down."""

    choices = 2

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Linear(dim, self.choices)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """A perfect answer, for the conformance kit and the preview."""
        return 20.0 * F.one_hot(target, self.choices).float()


def upside_down(where: Tensor, maps: Tensor) -> Tensor:
    """(B, C, H, W): turned by half a turn where `where` (B,) says so."""
    return torch.where(where[:, None, None, None], maps.flip((-2, -1)), maps)


def half_turn(where: Tensor, images: Tensor) -> Tensor:
    """(B, 3, 3), old pixels -> new ones: by it, labels such as a head pose follow the turn."""
    height, width = images.shape[-2:]
    turn = torch.tensor([[-1.0, 0.0, width], [0.0, -1.0, height], [0.0, 0.0, 1.0]])
    still = torch.eye(3, device=images.device)
    return torch.where(where[:, None, None], turn.to(images.device, non_blocking=True), still)


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
