"""Colorization: the encoder reads the image in gray; which colors did it have?

Zhang, Isola, Efros 2016, "Colorful Image Colorization", arXiv:1603.08511, and Larsson, Maire, Shakhnarovich 2016, "Learning
Representations for Automatic Colorization", arXiv:1603.06668. The question is the L of CIE Lab, three times, the answer its a
and b, at a quarter of the side. As in the first, they are answered by a softmax over cells of 10 x 10 in the ab plane, those
that RGB can show, and a color is spread softly over the cells about it (a Gaussian of 5): a thing that may be red or green has
two peaks, where a regression would learn the brown between them. As in the second, the loss is the Kullback-Leibler divergence,
0 for a perfect answer, and all maps are read, brought to one size (its hypercolumns), by one light layer.

Where we differ: the Gaussian covers all cells, not the five nearest (the others hold 7 % at most); our cells are
those that some color rounds to, 261, where it counts 313; and colors are not weighted by how rare they are in ImageNet, which
makes images livelier and is no property of the images at hand.

Images that are gray (FER2013) hold nothing to learn here: the one right answer is gray, and the loss soon goes to 0 and stays
finite; the features gain nothing.

Shapes: B images (B, 3, H, W), target ab (B, 2, h, w) in Lab units (about -110 to 110) with h = ceil(H / 4), Q cells; logits
(B, Q, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from mtlcore import (
    AugmentedBatch,
    BuildContext,
    EncoderInfo,
    Features,
    Head,
    PretextTask,
    Rng,
    View,
    hookimpl,
)

QUARTER = 4
CELL, SIGMA = 10.0, 5.0  # Lab units
WIDTH = 64  # channels of the decoder
TEMPERATURE = 0.38  # of the color that is shown: between the mean (1), which is dull, and the mode (0), which is blotched


@frozen
class Colorization(PretextTask):
    """Name the colors of an image that is read in gray."""

    cites = "Zhang, Isola, Efros, ECCV 2016, arXiv:1603.08511; Larsson, Maire, Shakhnarovich, ECCV 2016, arXiv:1603.06668"

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """-> the image in gray, its ab."""
        colors = lab(batch.clean.images)
        gray = (colors[:, :1] / 100).clamp(0, 1).repeat(1, 3, 1, 1)
        return [batch.clean.repaint(gray)], F.adaptive_avg_pool2d(colors[:, 1:], quarter(gray))

    def build(self, context: BuildContext) -> Head:
        return ColorizationHead(context.info)

    def metrics(self) -> dict[str, Any]:
        """ab_error: distance of the mean answer from the truth, Lab units. accuracy: share of places whose cell is named."""
        from torchmetrics import MeanMetric

        class AbError(MeanMetric):
            higher_is_better = False

            def update(self, output: Tensor, target: Tensor) -> None:
                super().update((answered(output, _cells_near(output)) - target).norm(dim=1))

        class Accuracy(MeanMetric):
            higher_is_better = True

            def update(self, output: Tensor, target: Tensor) -> None:
                super().update(
                    (output.argmax(1) == spread(target, _cells_near(target)).argmax(1)).float()
                )

        return {"ab_error": AbError(), "accuracy": Accuracy()}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The gray image in the colors of the answer."""
        from kornia.color import lab_to_rgb  # late: 0.7 s

        ab = answered(output / TEMPERATURE, _cells_near(output))
        return lab_to_rgb(
            torch.cat([100 * images[:, :1], resized(ab, (images.shape[-2], images.shape[-1]))], 1)
        )


class ColorizationHead(Head):
    """-> (B, Q, h, w) logits over the cells of the ab plane."""

    cells: Tensor

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in info.channels)
        self.register_buffer("cells", ab_cells().clone(), persistent=False)
        self.answer = nn.Conv2d(WIDTH, self.cells.shape[1], 1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        size = quarter(features.images)
        # one layer on the hypercolumn is the sum of one layer a map, each at its own size
        columns = [
            resized(column(x), size) for column, x in zip(self.columns, features.maps, strict=True)
        ]
        return self.answer(F.relu(torch.stack(columns).sum(0)))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Kullback-Leibler divergence, a mean over places."""
        wanted = spread(target, self.cells)
        return (
            F.kl_div(output.log_softmax(1), wanted, reduction="none", log_target=True)
            .sum(1)
            .mean((1, 2))
        )

    def ideal(self, target: Tensor) -> Tensor:
        """The soft answer itself."""
        return spread(target, self.cells)


def lab(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) in [0, 1] -> CIE Lab (D65): L in [0, 100], a and b about -110 to 110.

    Equal to kornia's `rgb_to_lab`, which copies its constants from the host at each call: a sync on a GPU.
    """
    red, green, blue = torch.where(
        images > 0.04045, ((images + 0.055) / 1.055).clamp_min(0) ** 2.4, images / 12.92
    ).unbind(1)
    x = _root((0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.95047)
    y = _root(0.212671 * red + 0.715160 * green + 0.072169 * blue)
    z = _root((0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.08883)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _root(x: Tensor) -> Tensor:
    return torch.where(x > 0.008856, x.clamp_min(0.008856) ** (1 / 3), 7.787 * x + 4 / 29)


@lru_cache(maxsize=1)
def ab_cells() -> Tensor:
    """(2, Q, 1, 1): a and b in the middles of the Q cells that some color of RGB rounds to."""
    step = torch.linspace(0, 1, 65)
    cube = torch.cartesian_prod(step, step, step).T.reshape(1, 3, 65, -1)
    return (lab(cube)[0, 1:].flatten(1) / CELL).round().unique(dim=1)[:, :, None, None] * CELL


def _cells_near(maps: Tensor) -> Tensor:
    return ab_cells().to(maps.device, non_blocking=True)


def spread(ab: Tensor, cells: Tensor) -> Tensor:
    """(B, 2, h, w) -> (B, Q, h, w): the logarithm of how much of each place's color belongs to each cell (2, Q, 1, 1)."""
    distance = (ab[:, :1] - cells[0]).square() + (ab[:, 1:] - cells[1]).square()
    return (distance / (-2 * SIGMA**2)).log_softmax(1)


def answered(output: Tensor, cells: Tensor) -> Tensor:
    """Logits (B, Q, h, w) over the cells (2, Q, 1, 1) -> the mean color, ab (B, 2, h, w)."""
    share = output.softmax(1)
    return torch.stack([(share * middle).sum(1) for middle in cells], 1)


def quarter(images: Tensor) -> tuple[int, int]:
    """The size (h, w) that colors are told at."""
    return -(-images.shape[-2] // QUARTER), -(-images.shape[-1] // QUARTER)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Averaged down, or bilinearly up."""
    if maps.shape[-2] > size[0]:
        return F.adaptive_avg_pool2d(maps, size)
    return (
        maps
        if maps.shape[-2:] == size
        else F.interpolate(maps, size, mode="bilinear", align_corners=False)
    )


@hookimpl
def mtl_components() -> list[type]:
    return [Colorization]
