"""plugin_name: predict which images are upside down.

Replace this text with your own: what the task predicts, why that trains an encoder, and the paper.
Shapes: B images (B, 3, H, W) in [0, 1]; D pooled features (B, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from torch import Tensor, nn

from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric


@frozen
class PluginName(PretextTask):
    """Turn some images upside down and predict which ones.

    share: probability that an image is turned, in [0, 1].
    """

    name = "plugin_name"
    cites = "original"
    share: float = field(default=0.5, validator=and_(ge(0.0), le(1.0)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """Return one view, and the target (B,) int64: 1 where the image is turned."""
        # All heads share `batch.clean`: derive a view from it, never change its images in place.
        clean = batch.clean
        # Draw from `rng` alone: its draws do not depend on the number of processes.
        turned = rng.rand(len(clean.images)) < self.share
        # `rearrange` applies the function to the images now, and to label maps later. The matrices
        # move labels such as a head pose.
        move = partial(upside_down, turned)
        return [clean.rearrange(move, half_turns(turned, clean.images))], turned.long()

    def build(self, context: BuildContext) -> Head:
        return PluginNameHead(context.info.dim)

    def undo(self, view: Tensor, target: Tensor) -> Tensor:
        """Turn the images back, bit for bit. The conformance kit proves the targets with it."""
        return upside_down(target.bool(), view)

    def metrics(self) -> dict[str, Metric]:
        from torchmetrics.classification import MulticlassAccuracy  # imported late: it is slow

        return {"accuracy": MulticlassAccuracy(2, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The view, turned back where the head predicts a turn. `mtl preview` shows it."""
        return upside_down(output.argmax(1).bool(), images)


class PluginNameHead(Head):
    """(B, D) -> (B, 2) logits: upright, upside down."""

    choices = 2  # for the conformance kit: uniform logits have the loss log(2)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Linear(dim, self.choices)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): one value per sample. mtlcore takes the mean."""
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """The logits of a perfect prediction, for the conformance kit and the preview."""
        return 20.0 * F.one_hot(target, self.choices).float()


def upside_down(turned: Tensor, maps: Tensor) -> Tensor:
    """(B, C, H, W): half a turn where `turned` (B,) is true."""
    return torch.where(turned[:, None, None, None], maps.flip((-2, -1)), maps)


def half_turns(turned: Tensor, images: Tensor) -> Tensor:
    """(B, 3, 3): pixel coordinates of an image before -> after the turn; x right, y down."""
    height, width = images.shape[-2:]
    turn = torch.tensor([[-1.0, 0.0, width], [0.0, -1.0, height], [0.0, 0.0, 1.0]])
    identity = torch.eye(3, device=images.device)
    # non_blocking: the copy to the GPU must not stop the training step.
    return torch.where(turned[:, None, None], turn.to(images.device, non_blocking=True), identity)


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
