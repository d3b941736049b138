"""Colorization: predict the colors of an image from its gray version.

Zhang, Isola, Efros 2016, "Colorful Image Colorization", arXiv:1603.08511, and Larsson, Maire,
Shakhnarovich 2016, "Learning Representations for Automatic Colorization", arXiv:1603.06668.

The input is L of CIE Lab, repeated over three channels. The target is a and b at a quarter of the
image size.

From Zhang et al.: the output is a softmax over cells of 10 x 10 units of the ab plane, those that
RGB can show. The target of a pixel is spread over nearby cells by a Gaussian of 5 units. An object
that may be red or green so gets two peaks; a regression would learn the brown between them.

From Larsson et al.: the loss is the Kullback-Leibler divergence, 0 for a perfect output. One light
layer reads all maps of the encoder, resized to one size (hypercolumns).

Differences from Zhang et al.:

- The Gaussian covers all cells, not only the five nearest. The other cells hold 7 % at most.
- A cell counts if a color rounds to it: 261 cells; the paper counts 313.
- Rare colors get no larger weight. The paper's weights come from ImageNet, not from the data.

Gray images (FER2013) give nothing to learn: the target is always gray, the loss falls to 0 and
stays finite, and the features gain nothing.

Shapes: B images (B, 3, H, W). Target ab (B, 2, h, w) in Lab units, about -110 to 110, with
h = ceil(H / 4). Logits (B, Q, h, w) over Q cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from mtl_pretexts._shared import resize_to
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

if TYPE_CHECKING:
    from torchmetrics import Metric

QUARTER = 4
CELL, SIGMA = 10.0, 5.0  # Lab units
WIDTH = 64  # channels of the decoder
# Of the color that is drawn, between the mean (1), which is dull, and the mode (0), which is
# patchy. 0.38 is the paper's.
TEMPERATURE = 0.38


@frozen
class Colorization(PretextTask):
    """Classify the color of each place of a gray image."""

    cites = (
        "Zhang, Isola, Efros, ECCV 2016, arXiv:1603.08511; "
        "Larsson, Maire, Shakhnarovich, ECCV 2016, arXiv:1603.06668"
    )
    reads_mixed = True

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Tensor]:
        """Return the gray image and its ab (B, 2, h, w)."""
        colors = lab(batch.clean.images)
        lightness, ab = colors[:, :1], colors[:, 1:]
        gray = (lightness / 100).clamp(0, 1).repeat(1, 3, 1, 1)
        ab = F.adaptive_avg_pool2d(ab, quarter(gray))
        return [batch.clean.repaint(gray)], ab

    def build(self, context: BuildContext) -> Head:
        return ColorizationHead(context.info)

    def metrics(self) -> dict[str, Metric]:
        """Metrics over all places.

        ab_error: distance of the mean predicted color from the target, in Lab units.
        accuracy: share of places with the right likeliest cell.
        """
        from torchmetrics import MeanMetric

        class AbError(MeanMetric):
            higher_is_better = False

            def update(self, output: Tensor, target: Tensor) -> None:
                predicted = mean_ab(output, _cells_on(output))
                super().update((predicted - target).norm(dim=1))

        class Accuracy(MeanMetric):
            higher_is_better = True

            def update(self, output: Tensor, target: Tensor) -> None:
                right = spread(target, _cells_on(target)).argmax(1)
                super().update((output.argmax(1) == right).float())

        return {"ab_error": AbError(), "accuracy": Accuracy()}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """Draw the gray image in the predicted colors."""
        from kornia.color import lab_to_rgb  # imported late: it takes 0.7 s

        height, width = images.shape[-2:]
        ab = resized(mean_ab(output / TEMPERATURE, _cells_on(output)), (height, width))
        return lab_to_rgb(torch.cat([100 * images[:, :1], ab], 1))


class ColorizationHead(Head):
    """Logits (B, Q, h, w) over the cells of the ab plane."""

    cells: Tensor

    def __init__(self, info: EncoderInfo) -> None:
        super().__init__()
        self.columns = nn.ModuleList(nn.Conv2d(channels, WIDTH, 1) for channels in info.channels)
        self.register_buffer("cells", ab_cells().clone(), persistent=False)
        self.answer = nn.Conv2d(WIDTH, self.cells.shape[1], 1)

    def forward(self, features: Features) -> Tensor:
        assert features.images is not None
        size = quarter(features.images)
        # One layer on the hypercolumn equals a sum of one layer per map. So each map is
        # convolved at its own size, and the concatenated hypercolumn is never stored.
        columns = [
            resized(column(x), size) for column, x in zip(self.columns, features.maps, strict=True)
        ]
        return self.answer(F.relu(torch.stack(columns).sum(0)))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): Kullback-Leibler divergence, a mean over places."""
        wanted = spread(target, self.cells)
        divergence = F.kl_div(output.log_softmax(1), wanted, reduction="none", log_target=True)
        return divergence.sum(1).mean((1, 2))

    def ideal(self, target: Tensor) -> Tensor:
        """Return the spread target: its divergence is 0."""
        return spread(target, self.cells)


def lab(images: Tensor) -> Tensor:
    """RGB (B, 3, H, W) in [0, 1] -> CIE Lab (D65): L in [0, 100], a and b about -110 to 110.

    Equal to kornia's `rgb_to_lab`, which copies its constants to the GPU at each call: a sync.
    """
    linear = torch.where(
        images > 0.04045, ((images + 0.055) / 1.055).clamp_min(0) ** 2.4, images / 12.92
    )
    red, green, blue = linear.unbind(1)
    x = _root((0.412453 * red + 0.357580 * green + 0.180423 * blue) / 0.95047)
    y = _root(0.212671 * red + 0.715160 * green + 0.072169 * blue)
    z = _root((0.019334 * red + 0.119193 * green + 0.950227 * blue) / 1.08883)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _root(x: Tensor) -> Tensor:
    """The cube root of CIE Lab, linear near 0."""
    # The clamp keeps the gradient of the branch that is not chosen finite.
    return torch.where(x > 0.008856, x.clamp_min(0.008856) ** (1 / 3), 7.787 * x + 4 / 29)


@lru_cache(maxsize=1)
def ab_cells() -> Tensor:
    """(2, Q, 1, 1): a and b of the centers of the Q cells that some RGB color rounds to."""
    step = torch.linspace(0, 1, 65)
    cube = torch.cartesian_prod(step, step, step).T.reshape(1, 3, 65, -1)
    ab = lab(cube)[0, 1:].flatten(1)
    cells = (ab / CELL).round().unique(dim=1)
    return cells[:, :, None, None] * CELL


def _cells_on(maps: Tensor) -> Tensor:
    """The cells on the device of `maps`."""
    return ab_cells().to(maps.device, non_blocking=True)


def spread(ab: Tensor, cells: Tensor) -> Tensor:
    """Colors (B, 2, h, w) -> log probabilities (B, Q, h, w) over the cells (2, Q, 1, 1)."""
    of_a = ab[:, :1] - cells[0]
    of_b = ab[:, 1:] - cells[1]
    distance = of_a.square() + of_b.square()
    return (distance / (-2 * SIGMA**2)).log_softmax(1)


def mean_ab(output: Tensor, cells: Tensor) -> Tensor:
    """Logits (B, Q, h, w) over the cells (2, Q, 1, 1) -> the mean color, ab (B, 2, h, w)."""
    share = output.softmax(1)
    return torch.stack([(share * middle).sum(1) for middle in cells], 1)


def quarter(images: Tensor) -> tuple[int, int]:
    """The size (h, w) of the target, rounded up."""
    height, width = images.shape[-2:]
    return -(-height // QUARTER), -(-width // QUARTER)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average (B, C, H, W) down to `size` (h, w), or resize it up bilinearly."""
    if maps.shape[-2] > size[0]:
        return F.adaptive_avg_pool2d(maps, size)
    return resize_to(maps, size)


@hookimpl
def mtl_components() -> list[type]:
    return [Colorization]
