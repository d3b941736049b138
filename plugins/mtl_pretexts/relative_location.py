"""Relative location: predict the offset between two cells of the encoder's map.

After DrLoc: Liu, Sangineto, Bi, Sebe, Lepri, De Nadai 2021, "Efficient Training of Visual
Transformers with Small Datasets", NeurIPS 2021, arXiv:2106.03746. It reads the clean view like the
supervised heads, so it needs no encoder forward of its own. The paper's weight is 0.1 to 0.5 of a
supervised loss.

Differences from the paper:

- Offsets are signed, so the head must distinguish left from right.
- The head predicts the offset of EVERY two cells, since it does not know the drawn pairs. One
  hidden layer has two halves, which are computed once per cell and added for each pair. The paper
  has two hidden layers of 512 on each drawn pair.
- Maps with more than 7 x 7 cells, the paper's own size, are averaged down to that.
- The head reads the coarsest map with at least 3 cells along each side, since deep networks leave
  one cell of a small image.

Shapes: B images, M pairs, (h, w) cells. An offset (x, y) is a share of the map size, in (-1, 1).
The loss of a constant prediction of 0 is 1/3 x (1 - 1 / cells^2), with `cells` along each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import and_, ge, le
from einops import rearrange
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

if TYPE_CHECKING:
    from torchmetrics import Metric

Target = dict[str, Tensor]
"""Two copies of the drawn places (B, M, 2 ends, 2), (x, y) in [0, 1), for a map of any size.

queried: the pairs whose offsets are read from the output. true: the pairs that give the target
offsets. They differ only with random targets.
"""
MOST, FEWEST = 7, 3  # cells along each side


@frozen
class RelativeLocation(PretextTask):
    """Predict the offset between two cells of the clean view's map.

    pairs: number of pairs per image, drawn with replacement.
    width: of the hidden layer.
    """

    cites = "Liu, Sangineto, Bi, Sebe, Lepri, De Nadai, NeurIPS 2021, arXiv:2106.03746"
    reads_mixed = True

    pairs: int = field(default=64, validator=and_(ge(1), le(10**6)))
    width: int = field(default=128, validator=and_(ge(1), le(2**16)))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Target]:
        """Return the clean view and the drawn places."""
        places = rng.rand(len(batch.clean.images), self.pairs, 2, 2)
        return [batch.clean], {"queried": places, "true": places}

    def permute(self, target: Target, order: Tensor) -> Target:
        """Permute the true offsets alone: the queried cells are part of the input."""
        return target | {"true": target["true"][order]}

    def build(self, context: BuildContext) -> Head:
        return RelativeLocationHead(context.info, self.width)

    def metrics(self) -> dict[str, Metric]:
        """Metrics over all pairs.

        l1: mean absolute error of the offsets, as a share of the map size.
        accuracy: share of pairs whose offset is right to the cell.
        """
        from torchmetrics import MeanMetric

        class L1(MeanMetric):
            higher_is_better = False

            def update(self, output: Tensor, target: Target) -> None:
                super().update(offset_errors(output, target))

        class Accuracy(MeanMetric):
            higher_is_better = True

            def update(self, output: Tensor, target: Target) -> None:
                height, width = output.shape[1:3]
                error = offset_errors(output, target)
                cells_off = torch.stack([error[..., 0] * width, error[..., 1] * height])
                super().update((cells_off < 0.5).all(0).float())

        return {"l1": L1(), "accuracy": Accuracy()}

    def draw(self, images: Tensor, target: Target, output: Tensor) -> Tensor:
        """Draw the first pair: the start in white, the predicted end in green, the true end in red.

        White is drawn over green, and green over red.
        """
        height, width = output.shape[1:3]
        start, end = cells(target["queried"][:, 0], (height, width)).unbind(1)
        map_size = images.new_tensor([width, height])
        start, end = start / map_size, end / map_size
        predicted = start + predicted_offsets(output, target)[:, 0]
        marks = [
            ((1.0, 0.0, 0.0), end),
            ((0.0, 1.0, 0.0), predicted),
            ((1.0, 1.0, 1.0), start),
        ]
        for color, corner in marks:
            mask = _cell_mask(corner, (height, width), images)
            images = torch.where(mask, images.new_tensor(color)[:, None, None], images)
        return images


class RelativeLocationHead(Head):
    """Offsets (x, y) from each cell (y, x) to every cell (y, x): (B, h, w, h, w, 2)."""

    def __init__(self, info: EncoderInfo, width: int) -> None:
        super().__init__()
        large_enough = [i for i, size in enumerate(info.map_sizes) if min(size) >= FEWEST]
        self.level = max(large_enough, default=0)
        height, across = info.map_sizes[self.level]
        self.size = (min(height, MOST), min(across, MOST))
        channels = info.channels[self.level]
        self.start = nn.Linear(channels, width)
        self.end = nn.Linear(channels, width, bias=False)
        self.answer = nn.Sequential(nn.ReLU(), nn.Linear(width, 2))

    def forward(self, features: Features) -> Tensor:
        x = features.maps[self.level]
        if x.shape[-2:] != self.size:
            x = F.adaptive_avg_pool2d(x, self.size)
        x = rearrange(x, "b c h w -> b h w c")
        start = rearrange(self.start(x), "b h w d -> b h w 1 1 d")
        end = rearrange(self.end(x), "b h w d -> b 1 1 h w d")
        return self.answer(start + end)

    def loss(self, output: Tensor, target: Target) -> Tensor:
        """(B,): L1, a mean over pairs and both directions."""
        return offset_errors(output, target).mean((1, 2))

    def ideal(self, target: Target) -> Tensor:
        """Return the true offsets of every two cells, whichever pairs were drawn."""
        places = target["true"]
        height, width = self.size
        x = torch.arange(width, device=places.device) / width
        y = torch.arange(height, device=places.device) / height
        shape = (height, width, height, width)
        across = (x - x[:, None])[None, :, None, :].expand(shape)
        down = (y - y[:, None])[:, None, :, None].expand(shape)
        return torch.stack([across, down], -1).expand(len(places), *shape, 2)


def cells(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Places (..., 2), (x, y) in [0, 1) -> their cells (x, y), int64, of a map of `size` (h, w)."""
    x = places[..., 0] * size[1]
    y = places[..., 1] * size[0]
    return torch.stack([x, y], -1).long()


def true_offsets(target: Target, output: Tensor) -> Tensor:
    """(B, M, 2): the true offsets on the output's map."""
    height, width = output.shape[1:3]
    start, end = cells(target["true"], (height, width)).unbind(2)
    offset = end - start
    across = offset[..., 0] / width
    down = offset[..., 1] / height
    return torch.stack([across, down], -1)


def predicted_offsets(output: Tensor, target: Target) -> Tensor:
    """(B, M, 2): the predicted offsets of the queried pairs."""
    height, width = output.shape[1:3]
    x, y = cells(target["queried"], (height, width)).unbind(-1)
    start, end = (y * width + x).unbind(-1)
    table = rearrange(output, "b h w i j xy -> b (h w i j) xy")
    pair = start * (height * width) + end
    return table.gather(1, pair[..., None].expand(-1, -1, 2))


def offset_errors(output: Tensor, target: Target) -> Tensor:
    """(B, M, 2): absolute errors of the queried pairs."""
    return (predicted_offsets(output, target) - true_offsets(target, output)).abs()


def _cell_mask(corner: Tensor, size: tuple[int, int], images: Tensor) -> Tensor:
    """(B, 1, H, W) bool: the cell with its upper left corner at `corner` (B, 2), shares (x, y)."""
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    x = x - corner[:, 0, None]
    y = y - corner[:, 1, None]
    column = (x >= 0) & (x < 1 / size[1])
    row = (y >= 0) & (y < 1 / size[0])
    return rearrange(row, "b h -> b 1 h 1") & rearrange(column, "b w -> b 1 1 w")


@hookimpl
def mtl_components() -> list[type]:
    return [RelativeLocation]
