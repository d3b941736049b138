"""Local rotation: one square of the image is turned in place; which one, and by which quarter turn?

Moon, Kim, Heo 2022, "Tailoring Self-Supervision for Supervised Learning" (LoRot), ECCV 2022, arXiv:2207.10023. It is made for
the supervised heads to read the very image that was turned: set `views.supervised = "pretext"`, and there is no encoder
forward beside theirs. The paper's weight is 0.1 to 0.5; start at 0.1.

The image as a whole stays where it is, so rigid labels (pose) do not move; dense ones move with their pixels.

Of the four quadrants, the explicit variant turns one by 0, 90, 180 or 270 degrees. A quarter of its images is not turned at
all, and then nobody can tell which quadrant it was: as in the paper these are four of the 16 classes, so accuracy ends at 13/16
and the loss at log(4) / 4 = 0.35. The implicit variant asks for the turn alone, of a square of any size and place; its range of
sizes is ours.

Shapes: B images, their squares "box" (B, 3) int64 of (top, left, side) in pixels, "answer" (B,) int64 with the turn in answer
% 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor, nn

from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

Question = dict[str, Tensor]
SIDES = (0.25, 0.75)  # of an implicit square, as shares of the image's side


@frozen
class LocalRotation(PretextTask):
    """Name the quadrant that was turned in place and its quarter turn, or the turn of any square alone.

    variant: "explicit", one of 16 answers, 4 * quadrant + turn, or "implicit", one of 4.
    """

    cites = "Moon, Kim, Heo, ECCV 2022, arXiv:2207.10023"

    variant: Literal["explicit", "implicit"] = field(
        default="explicit", validator=in_(("explicit", "implicit"))
    )

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return 16 if self.variant == "explicit" else 4

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Question]:
        """-> the image with one square turned, {"answer": (B,), "box": (B, 3)}."""
        images = batch.clean.images
        answer = rng.randint(self.answers, len(images))
        box = (
            quadrant(answer // 4, images) if self.variant == "explicit" else any_square(images, rng)
        )
        turned = batch.clean.rearrange(partial(turn_square, box, answer % 4))
        return [turned], {"answer": answer, "box": box}

    def permute(self, target: Question, order: Tensor) -> Question:
        """Where the square lies is the question."""
        return target | {"answer": target["answer"][order]}

    def undo(self, view: Tensor, target: Question) -> Tensor:
        """The square turned back, bit for bit."""
        return turn_square(target["box"], -target["answer"] % 4, view)

    def build(self, context: BuildContext) -> Head:
        return LocalRotationHead(context.info.dim, self.answers)

    def metrics(self) -> dict[str, Any]:
        """accuracy: share of images rightly answered; chance is 1/16, or 1/4 of the implicit variant."""
        from torchmetrics.classification import MulticlassAccuracy

        class Accuracy(MulticlassAccuracy):
            def update(self, output: Tensor, target: Question) -> None:
                super().update(output, target["answer"])

        return {"accuracy": Accuracy(self.answers, average="micro")}

    def draw(self, images: Tensor, target: Question, output: Tensor) -> Tensor:
        """The square that the answer names, turned back as it says: whole where it is right."""
        said = output.argmax(1)
        box = quadrant(said // 4, images) if self.variant == "explicit" else target["box"]
        return turn_square(box, -said % 4, images)


class LocalRotationHead(Head):
    """-> (B, 16) or (B, 4) logits."""

    def __init__(self, dim: int, choices: int) -> None:
        super().__init__()
        self.choices = choices
        self.answer = nn.Linear(dim, choices)

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Question) -> Tensor:
        return F.cross_entropy(output, target["answer"], reduction="none")

    def ideal(self, target: Question) -> Tensor:
        """Logits that are sure of the right answer."""
        return 20.0 * F.one_hot(target["answer"], self.choices)


def quadrant(place: Tensor, images: Tensor) -> Tensor:
    """Squares (B, 3) in the corners 0 to 3 (in reading order) of place (B,). The middle line of an odd side belongs to none."""
    height, width = images.shape[-2:]
    side = min(height, width) // 2
    return torch.stack(
        [place // 2 * (height - side), place % 2 * (width - side), torch.full_like(place, side)], 1
    )


def any_square(images: Tensor, rng: Rng) -> Tensor:
    """Squares (B, 3) whose sides and then whose places are uniform."""
    height, width = images.shape[-2:]
    size, y, x = rng.rand(3, len(images))
    low, high = (max(2, round(share * min(height, width))) for share in SIDES)
    side = low + (size * (high - low + 1)).long()
    return torch.stack([(y * (height - side + 1)).long(), (x * (width - side + 1)).long(), side], 1)


def turn_square(box: Tensor, turns: Tensor, maps: Tensor) -> Tensor:
    """(B, C, H, W) -> the same shape: each sample's square `box` (B, 3) turned by `turns` (B,) quarters counter-clockwise.

    Each pixel is told where it comes from, so squares of all sizes turn at once: no host read, no loop over samples.
    """
    (height, width), every = maps.shape[-2:], torch.arange(len(maps), device=maps.device)
    top, left, side = box.view(-1, 3, 1, 1).unbind(1)
    y, x = (
        torch.arange(height, device=maps.device)[:, None],
        torch.arange(width, device=maps.device),
    )
    v, u = y - top, x - left  # (B, H, 1), (B, 1, W): from the square's corner
    inside = (v >= 0) & (v < side) & (u >= 0) & (u < side)
    places = torch.stack(torch.broadcast_tensors(v, u, side - 1 - v, side - 1 - u))
    row, column = places[turns, every], places[(turns + 1) % 4, every]
    source = torch.where(inside, (top + row) * width + left + column, y * width + x)
    return (
        maps.flatten(2)
        .gather(2, source.flatten(1)[:, None].expand(-1, maps.shape[1], -1))
        .view_as(maps)
    )


@hookimpl
def mtl_components() -> list[type]:
    return [LocalRotation]
