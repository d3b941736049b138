"""Relative position: given the middle patch of an image and a neighbor, predict which neighbor.

Doersch, Gupta, Efros 2015, "Unsupervised Visual Representation Learning by Context Prediction",
arXiv:1505.05192. The shared encoder reads both patches, as two views. Their pooled features are
concatenated for a small network.

Against shortcuts, as in the paper:

- A gap of half a patch, so that lines do not continue from patch to patch.
- Jitter of each patch (7 of 96 pixels there).
- A remedy against the color fringes of lenses, which show where in a photograph a patch is. "drop",
  the paper's better remedy, replaces two of a patch's three channels by faint noise. "project"
  removes the green-magenta axis.

Differences from the paper:

- Patches are not downsampled at random, since the images here are small.
- The 3 x 3 patches fill the image, and every pair contains the middle patch. The paper takes pairs
  from anywhere in far larger images.

A patch is not a whole image, so supervised heads never read it. Its size is about a quarter of the
image. By default it is enlarged to the image size, which every encoder accepts: two more forwards.
`enlarge = false` reads patches at their own size for a tenth of that. This needs an encoder for
such small images (`resnet_small`, no ViT).

Shapes: B images; target (B,) int64, the neighbor in reading order without the middle; logits
(B, 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import and_, ge, in_, le
from torch import Tensor, nn

from mtl_pretexts._shared import GRAY, SURE, crop
from mtlcore import AugmentedBatch, BuildContext, Features, Head, PretextTask, Rng, View, hookimpl

if TYPE_CHECKING:
    from torchmetrics import Metric

MIDDLE = 4  # of the 3 x 3 patches, in reading order
GREEN_MAGENTA = (-1.0, 2.0, -1.0)
NOISE = 0.01  # std of the noise, as a share of the std of the remaining channel

_share = and_(ge(0.0), le(1.0))


@frozen
class RelativePosition(PretextTask):
    """Classify the place of a neighboring patch, one of eight.

    gap: between patches, as a share of the patch size.
    jitter: largest shift of a patch in each direction, as a share of the patch size.
    colors: remedy against color fringes, "drop" or "project", or "keep" for none.
    enlarge: resize patches to the size of the image.
    """

    cites = "Doersch, Gupta, Efros, ICCV 2015, arXiv:1505.05192"
    reads_mixed = True

    gap: float = field(default=0.5, validator=_share)
    jitter: float = field(default=7 / 96, validator=_share)
    colors: Literal["drop", "project", "keep"] = field(
        default="drop", validator=in_(("drop", "project", "keep"))
    )
    enlarge: bool = True

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """Return the middle patch and a neighbor, and which neighbor it is (B,)."""
        samples = len(batch.clean.images)
        neighbor = rng.randint(8, samples)
        places = torch.full_like(neighbor, MIDDLE), _cell(neighbor)
        return [self._patch(batch.clean, place, rng) for place in places], neighbor

    def layout(self, image: int) -> tuple[int, int, int]:
        """Patch size, distance of neighbors and largest shift, in pixels, along an image's side."""
        size = max(1, int(image / (3 + 2 * self.gap + 2 * self.jitter)))
        step = min(size + int(size * self.gap), (image - size) // 2)
        shift = min(round(size * self.jitter), (image - size - 2 * step) // 2)
        return size, step, shift

    def _patch(self, clean: View, place: Tensor, rng: Rng) -> View:
        """Cut the patch at `place` (B,) in 0 ... 8, in reading order."""
        height, width = clean.images.shape[-2:]
        vertical, horizontal = self.layout(height), self.layout(width)
        # One draw for both sides, scaled to the shifts of each.
        choices = 2 * max(vertical[2], horizontal[2]) + 1
        jitter = rng.randint(choices, len(place), 2)
        top = _first_pixel(height, vertical, place // 3, jitter[:, 0], choices)
        left = _first_pixel(width, horizontal, place % 3, jitter[:, 1], choices)
        size = vertical[0], horizontal[0]
        patch = self._without_shortcut(crop(clean.images, top, left, size), rng)
        if self.enlarge:
            patch = F.interpolate(patch, (height, width), mode="bilinear", align_corners=False)
        # A patch is not a whole image: without a geometry no supervised head reads it.
        return evolve(clean, images=patch, geometry=None, mixed=None)

    def _without_shortcut(self, patch: Tensor, rng: Rng) -> Tensor:
        if self.colors == "drop":
            return one_channel(patch, rng)
        if self.colors == "project":
            return without_fringes(patch)
        return patch

    def build(self, context: BuildContext) -> Head:
        return RelativePositionHead(context.info.dim)

    def metrics(self) -> dict[str, Metric]:
        """accuracy: share of neighbors at the right place (chance: 1/8)."""
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(8, average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """Draw the FIRST patch in the middle of a gray field, and the predicted place in white."""
        height, width = images.shape[-2:]
        place = _cell(output.argmax(1))
        predicted = F.one_hot(place, 9).to(images).view(-1, 1, 3, 3)
        drawn = F.interpolate(GRAY + predicted / 2, (3 * height, 3 * width), mode="nearest")
        drawn = drawn.repeat(1, 3, 1, 1)
        drawn[:, :, height : 2 * height, width : 2 * width] = images
        return drawn


class RelativePositionHead(Head):
    """Logits (B, 8) from the concatenated pooled features of both patches."""

    choices = 8

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.answer = nn.Sequential(
            nn.Linear(2 * dim, dim),
            nn.ReLU(),
            nn.Linear(dim, self.choices),
        )

    def forward(self, middle: Features, neighbor: Features) -> Tensor:
        return self.answer(torch.cat([middle.pooled, neighbor.pooled], 1))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """Return confident logits of the right place."""
        return SURE * F.one_hot(target, self.choices)


def _first_pixel(
    image: int, layout: tuple[int, int, int], place: Tensor, jitter: Tensor, choices: int
) -> Tensor:
    """(B,): where the patches at `place` (B,) in 0 ... 2 begin along a side of `image` pixels.

    jitter: (B,) draws in 0 ... choices - 1. layout: as in `RelativePosition.layout`.
    """
    size, step, shift = layout
    shifts = jitter * (2 * shift + 1) // choices - shift
    return (image - size) // 2 + (place - 1) * step + shifts


def _cell(neighbor: Tensor) -> Tensor:
    """Neighbors 0 ... 7 -> cells 0 ... 8 of the 3 x 3 patches, without the middle."""
    return neighbor + (neighbor >= MIDDLE)


def one_channel(patch: Tensor, rng: Rng) -> Tensor:
    """Keep one random channel of each patch (B, 3, h, w); fill the others with faint noise."""
    chosen = F.one_hot(rng.randint(3, len(patch)), 3).bool()
    remains = chosen[:, :, None, None]
    channel = (patch * remains).sum(1, keepdim=True)
    std = channel.std((2, 3), keepdim=True, correction=0)
    noise = (GRAY + NOISE * std * rng.randn(*patch.shape)).clamp(0, 1)
    return torch.where(remains, patch, noise)


def without_fringes(patch: Tensor) -> Tensor:
    """Remove each pixel's component along the green-magenta axis."""
    r, g, b = GREEN_MAGENTA
    along = r * patch[:, 0] + g * patch[:, 1] + b * patch[:, 2]
    along = along / (r * r + g * g + b * b)
    fringe = torch.stack([r * along, g * along, b * along], 1)
    return (patch - fringe).clamp(0, 1)


@hookimpl
def mtl_components() -> list[type]:
    return [RelativePosition]
