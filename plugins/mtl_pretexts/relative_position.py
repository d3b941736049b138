"""Relative position: two patches of an image, a middle one and one of its eight neighbors; which neighbor is it?

Doersch, Gupta, Efros 2015, "Unsupervised Visual Representation Learning by Context Prediction", arXiv:1505.05192. Both patches
go through the shared encoder, as two views; their pooled features stand side by side before a small network.

Against shortcuts, as in the paper: a gap of half a patch, so that no line runs on; jitter of each patch (7 of 96 pixels there);
and the color fringes of lenses, which tell where in a photograph a patch lies, are taken away: two of a patch's three channels
are replaced by faint noise ("drop", its better remedy), or the image is projected off the green-magenta axis ("project"). Its
random downsampling of patches is left out: the images here are small. The three by three patches fill the image, and the
pair is always about its middle; the paper takes pairs from anywhere, out of far larger images.

Patches are no whole images: supervised heads never read them. They are about a quarter of the image's side, and enlarged to
the whole side by default, the one size that every encoder takes: two more forwards. `enlarge = false` reads them as they are,
for a tenth of that, in a net that is happy with such small images (`resnet_small`, no ViT).

Shapes: B images; target (B,) int64, the neighbor in reading order, the middle left out; logits (B, 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, in_, le
from torch import Tensor, nn

from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

share = and_(ge(0.0), le(1.0))
GREEN_MAGENTA = (-1.0, 2.0, -1.0)
NOISE = 0.01  # of the spread of the channel that is kept


@frozen
class RelativePosition(PretextTask):
    """Name the place of a neighboring patch, one of eight.

    gap: between patches; jitter: how far each is moved at most, up or down, left or right; both as shares of a patch's side.
    colors: the remedy against color fringes, "drop", "project", or "keep". enlarge: patches are read at the image's own side.
    """

    cites = "Doersch, Gupta, Efros, ICCV 2015, arXiv:1505.05192"

    gap: float = field(default=0.5, validator=share)
    jitter: float = field(default=7 / 96, validator=share)
    colors: Literal["drop", "project", "keep"] = field(
        default="drop", validator=in_(("drop", "project", "keep"))
    )
    enlarge: bool = True

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """-> the middle patch and its neighbor, and which neighbor it is."""
        samples = len(batch.clean.images)
        answer = rng.randint(8, samples)
        places = torch.full_like(answer, 4), answer + (answer >= 4)
        return [self._patch(batch.clean, place, rng) for place in places], answer

    def layout(self, image: int) -> tuple[int, int, int]:
        """-> (side of a patch, from one to the next, largest shift), pixels, for images of this side."""
        side = max(1, int(image / (3 + 2 * self.gap + 2 * self.jitter)))
        step = min(side + int(side * self.gap), (image - side) // 2)
        return side, step, min(round(side * self.jitter), (image - side - 2 * step) // 2)

    def _patch(self, clean: View, place: Tensor, rng: Rng) -> View:
        """Of the cell `place` (B,) in 0 ... 8, in reading order."""
        height, width = clean.images.shape[-2:]
        side, step, shift = self.layout(min(height, width))
        moved = rng.randint(2 * shift + 1, len(place), 2) - shift
        top = (height - side) // 2 + (place // 3 - 1) * step + moved[:, 0]
        left = (width - side) // 2 + (place % 3 - 1) * step + moved[:, 1]
        patch = self._remedied(crop(clean.images, top, left, side), rng)
        if self.enlarge:
            patch = F.interpolate(patch, (height, width), mode="bilinear", align_corners=False)
        return evolve(clean, images=patch, geometry=None, mix=None)

    def _remedied(self, patch: Tensor, rng: Rng) -> Tensor:
        if self.colors == "drop":
            return one_channel(patch, rng)
        return without_fringes(patch) if self.colors == "project" else patch

    def build(self, context: BuildContext) -> Head:
        return RelativePositionHead(context.info.dim)

    def metrics(self) -> dict[str, Any]:
        """accuracy: share of neighbors that are placed rightly (chance: 1/8)."""
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(8, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The FIRST patch in the middle of a gray field; the place that the answer names is white."""
        said = output.argmax(1)
        lit = F.one_hot(said + (said >= 4), 9).to(images).view(-1, 1, 3, 3)
        field_of_nine = F.interpolate(
            0.5 + lit / 2, scale_factor=images.shape[-1], mode="nearest"
        ).repeat(1, 3, 1, 1)
        n = images.shape[-1]
        field_of_nine[:, :, n : 2 * n, n : 2 * n] = images
        return field_of_nine


class RelativePositionHead(Head):
    """The pooled features of both patches side by side -> (B, 8) logits."""

    choices = 8

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, self.choices)
        )

    def forward(self, middle: Features, neighbor: Features) -> Tensor:
        return self.answer(torch.cat([middle.pooled, neighbor.pooled], 1))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """Logits that are sure of the right place."""
        return 20.0 * F.one_hot(target, self.choices)


def crop(images: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side): of each sample the square whose first pixel is (top, left), each (B,)."""
    sample, channel = (torch.arange(n, device=images.device) for n in images.shape[:2])
    along = torch.arange(side, device=images.device)
    y, x = top[:, None] + along, left[:, None] + along
    return images[
        sample[:, None, None, None],
        channel[:, None, None],
        y[:, None, :, None],
        x[:, None, None, :],
    ]


def one_channel(patch: Tensor, rng: Rng) -> Tensor:
    """One channel of each patch stays; the two others become noise about gray, a hundredth as strong."""
    kept = F.one_hot(rng.randint(3, len(patch)), 3).bool()[:, :, None, None]
    spread = (patch * kept).sum(1, keepdim=True).std((2, 3), keepdim=True, correction=0)
    return torch.where(kept, patch, (0.5 + NOISE * spread * rng.randn(*patch.shape)).clamp(0, 1))


def without_fringes(patch: Tensor) -> Tensor:
    """Each pixel less its part along green minus magenta."""
    r, g, b = GREEN_MAGENTA
    along = (r * patch[:, 0] + g * patch[:, 1] + b * patch[:, 2]) / (r * r + g * g + b * b)
    return (patch - torch.stack([r * along, g * along, b * along], 1)).clamp(0, 1)


@hookimpl
def mtl_components() -> list[type]:
    return [RelativePosition]
