"""Local rotation: one square of the image is turned in place; predict its quarter turn.

Moon, Kim, Heo 2022, "Tailoring Self-Supervision for Supervised Learning" (LoRot), ECCV 2022,
arXiv:2207.10023. In the paper, the supervised heads read the image with the turned square. For
this, set `views.supervised = "pretext"`; then the pretext needs no encoder forward of its own. The
paper's weight is 0.1 to 0.5; start at 0.1.

The image as a whole does not move, so rigid labels (pose) stay. Dense labels move with their
pixels.

Variants:

- explicit: one of the four quadrants is turned by 0, 90, 180 or 270 degrees. The target is the pair
  of quadrant and turn, one of 16. A quarter of the images is not turned at all, and nothing shows
  their quadrant, as in the paper. So the best accuracy is 13/16 and the least loss log(4) / 4 =
  0.35.
- implicit: a square of any size and place is turned. The target is the turn alone. The range of
  sizes is ours.

Shapes: B images; target "box" (B, 3) int64, (top, left, size) in pixels, and "label" (B,) int64,
with the turn in label % 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor, nn

from mtl_pretexts._shared import SURE
from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric

Target = dict[str, Tensor]
SIZES = (0.25, 0.75)  # of an implicit square, as shares of the image size


@frozen
class LocalRotation(PretextTask):
    """Predict which quadrant of the image was turned and how far, or the turn of any square.

    variant: "explicit", one of 16 classes, 4 * quadrant + turn, or "implicit", one of 4.
    """

    cites = "Moon, Kim, Heo, ECCV 2022, arXiv:2207.10023"
    reads_mixed = True

    variant: Literal["explicit", "implicit"] = field(
        default="explicit", validator=in_(("explicit", "implicit"))
    )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 16 if self.variant == "explicit" else 4

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """Return the image with one square turned, and {"label": (B,), "box": (B, 3)}."""
        images = batch.clean.images
        label = rng.randint(self.classes, len(images))
        if self.variant == "explicit":
            box = quadrant(label // 4, images)
        else:
            box = any_square(images, rng)
        turned = batch.clean.rearrange(partial(turn_square, box, label % 4))
        return [turned], {"label": label, "box": box}

    def permute(self, target: Target, order: Tensor) -> Target:
        """Permute the labels alone: the place of the square is part of the input."""
        return target | {"label": target["label"][order]}

    def undo(self, view: Tensor, target: Target) -> Tensor:
        """Turn the square back, bit for bit."""
        return turn_square(target["box"], -target["label"] % 4, view)

    def build(self, context: BuildContext) -> Head:
        return LocalRotationHead(context.info.dim, self.classes)

    def metrics(self) -> dict[str, Metric]:
        """accuracy: share of right labels (chance: 1/16, or 1/4 for the implicit variant)."""
        from torchmetrics.classification import MulticlassAccuracy

        class Accuracy(MulticlassAccuracy):
            def update(self, output: Tensor, target: Target) -> None:
                super().update(output, target["label"])

        return {"accuracy": Accuracy(self.classes, average="micro")}

    def draw(self, images: Tensor, target: Target, output: Tensor) -> Tensor:
        """Turn the predicted square back by the predicted turn: a right prediction restores all."""
        predicted = output.argmax(1)
        box = target["box"]
        if self.variant == "explicit":
            box = quadrant(predicted // 4, images)
        return turn_square(box, -predicted % 4, images)


class LocalRotationHead(Head):
    """Logits (B, 16) or (B, 4) from the pooled features."""

    def __init__(self, dim: int, choices: int) -> None:
        super().__init__()
        self.choices = choices
        self.answer = nn.Linear(dim, choices)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Target) -> Tensor:
        return F.cross_entropy(output, target["label"], reduction="none")

    def ideal(self, target: Target) -> Tensor:
        """Return confident logits of the right label."""
        return SURE * F.one_hot(target["label"], self.choices)


def quadrant(place: Tensor, images: Tensor) -> Tensor:
    """Corners (B,) in 0 to 3, in reading order -> their squares (B, 3): top, left, size.

    The middle line of an odd image size belongs to no quadrant.
    """
    height, width = images.shape[-2:]
    size = min(height, width) // 2
    top = place // 2 * (height - size)
    left = place % 2 * (width - size)
    return torch.stack([top, left, torch.full_like(place, size)], 1)


def any_square(images: Tensor, rng: Rng) -> Tensor:
    """Draw squares (B, 3): a uniform size first, then a uniform place."""
    height, width = images.shape[-2:]
    share, y, x = rng.rand(3, len(images))
    low, high = (max(2, round(bound * min(height, width))) for bound in SIZES)
    size = low + (share * (high - low + 1)).long()
    top = (y * (height - size + 1)).long()
    left = (x * (width - size + 1)).long()
    return torch.stack([top, left, size], 1)


def turn_square(box: Tensor, turns: Tensor, maps: Tensor) -> Tensor:
    """Turn each sample's square counter-clockwise: (B, C, H, W) -> the same shape.

    box: (B, 3), top, left, size. turns: (B,), quarter turns in 0 to 3.

    Each output pixel looks up its source pixel. So squares of all sizes turn in one gather, without
    a loop over samples and without a sync with the host.
    """
    height, width = maps.shape[-2:]
    sample = torch.arange(len(maps), device=maps.device)
    top, left, size = box.view(-1, 3, 1, 1).unbind(1)
    y = torch.arange(height, device=maps.device)[:, None]
    x = torch.arange(width, device=maps.device)
    v, u = y - top, x - left  # (B, H, 1), (B, 1, W): coordinates inside the square
    inside = (v >= 0) & (v < size) & (u >= 0) & (u < size)
    # After k quarter turns a pixel (v, u) comes from (places[k], places[k + 1]).
    turned = torch.broadcast_tensors(v, u, size - 1 - v, size - 1 - u)
    places = torch.stack(turned)
    source_v = places[turns, sample]
    source_u = places[(turns + 1) % 4, sample]
    moved = (top + source_v) * width + left + source_u
    source = torch.where(inside, moved, y * width + x)
    index = source.flatten(1)[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).view_as(maps)


@hookimpl
def mtl_components() -> list[type]:
    return [LocalRotation]
