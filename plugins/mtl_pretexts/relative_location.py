"""Relative location: how far apart are two cells of the map, and in which direction?

After DrLoc: Liu, Sangineto, Bi, Sebe, Lepri, De Nadai 2021, "Efficient Training of Visual Transformers with Small Datasets",
NeurIPS 2021, arXiv:2106.03746. It reads the clean view, as the supervised heads do: no encoder forward of its own. The paper's
weight is 0.1 to 0.5 of a supervised loss.

Where we differ. Offsets are signed, so left and right must be told apart. A head does not know what will be asked, so it
answers for EVERY two cells: one hidden layer whose two halves are computed once a cell and added up for each pair, in the place
of the paper's two hidden layers of 512 on each pair that was drawn. Maps with more than 7 x 7 cells, the paper's own size, are
averaged down to that. The map that is read is the coarsest with at least 3 cells a side, since deep nets leave one cell of a
small image.

Shapes: B images, M pairs, (h, w) cells; an offset (x, y) is a share of the map's side, in (-1, 1). Who always says 0 loses
1/3 x (1 - 1 / side^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
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

Question = dict[str, Tensor]
MOST, FEWEST = 7, 3  # cells a side


@frozen
class RelativeLocation(PretextTask):
    """Tell the offset between two cells of the clean view's map.

    pairs: how many are asked of each image, drawn with replacement. width: of the hidden layer.
    """

    cites = "Liu, Sangineto, Bi, Sebe, Lepri, De Nadai, NeurIPS 2021, arXiv:2106.03746"

    pairs: int = field(default=64, validator=ge(1))
    width: int = field(default=128, validator=ge(1))

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[Sequence[View], Question]:
        """-> the clean view, {"asked", "answer"}: the same places (B, M, 2 ends, 2) of (x, y) in [0, 1), for a map of any size."""
        places = rng.rand(len(batch.clean.images), self.pairs, 2, 2)
        return [batch.clean], {"asked": places, "answer": places}

    def permute(self, target: Question, order: Tensor) -> Question:
        """Which cells are asked is the question."""
        return target | {"answer": target["answer"][order]}

    def build(self, context: BuildContext) -> Head:
        return RelativeLocationHead(context.info, self.width)

    def metrics(self) -> dict[str, Any]:
        """l1: of the offsets, in shares of the side. accuracy: share of pairs whose offset is right to the cell."""
        from torchmetrics import MeanMetric

        class L1(MeanMetric):
            higher_is_better = False

            def update(self, output: Tensor, target: Question) -> None:
                super().update((predicted_offsets(output, target) - offsets(target, output)).abs())

        class Accuracy(MeanMetric):
            higher_is_better = True

            def update(self, output: Tensor, target: Question) -> None:
                error = (predicted_offsets(output, target) - offsets(target, output)).abs()
                off = torch.stack(
                    [error[..., 0] * output.shape[2], error[..., 1] * output.shape[1]]
                )
                super().update((off < 0.5).all(0).float())

        return {"l1": L1(), "accuracy": Accuracy()}

    def draw(self, images: Tensor, target: Question, output: Tensor) -> Tensor:
        """The first pair: where it starts in white, where the answer points to in green, and below that the right end in red."""
        height, width = output.shape[1:3]
        start, end = cells(target["asked"][:, 0], (height, width)).unbind(1)
        guess = start / images.new_tensor([width, height]) + predicted_offsets(output, target)[:, 0]
        marks = {(1.0, 0.0, 0.0): end / images.new_tensor([width, height]), (0.0, 1.0, 0.0): guess}
        marks[1.0, 1.0, 1.0] = start / images.new_tensor([width, height])
        for color, corner in marks.items():
            images = torch.where(
                _cell(corner, (height, width), images),
                images.new_tensor(color)[:, None, None],
                images,
            )
        return images


class RelativeLocationHead(Head):
    """-> (B, h, w, h, w, 2): the offset (x, y) from the cell at the first (y, x) to that at the second."""

    def __init__(self, info: EncoderInfo, width: int) -> None:
        super().__init__()
        fit = [i for i, size in enumerate(info.map_sizes) if min(size) >= FEWEST]
        self.level = max(fit, default=0)
        height, across = info.map_sizes[self.level]
        self.size = (min(height, MOST), min(across, MOST))
        self.start = nn.Linear(info.channels[self.level], width)
        self.end = nn.Linear(info.channels[self.level], width, bias=False)
        self.answer = nn.Sequential(nn.ReLU(), nn.Linear(width, 2))

    def forward(self, features: Features) -> Tensor:
        x = features.maps[self.level]
        x = x if x.shape[-2:] == self.size else F.adaptive_avg_pool2d(x, self.size)
        x = rearrange(x, "b c h w -> b h w c")
        start = rearrange(self.start(x), "b h w d -> b h w 1 1 d")
        return self.answer(start + rearrange(self.end(x), "b h w d -> b 1 1 h w d"))

    def loss(self, output: Tensor, target: Question) -> Tensor:
        """L1, a mean over pairs and both directions."""
        return (predicted_offsets(output, target) - offsets(target, output)).abs().mean((1, 2))

    def ideal(self, target: Question) -> Tensor:
        """What is true of every two cells, whatever was asked."""
        (height, width), like = self.size, target["answer"]
        x = torch.arange(width, device=like.device) / width
        y = torch.arange(height, device=like.device) / height
        shape = (height, width, height, width)
        across = (x - x[:, None])[None, :, None, :].expand(shape)
        down = (y - y[:, None])[:, None, :, None].expand(shape)
        return torch.stack([across, down], -1).expand(len(like), *shape, 2)


def cells(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Places (..., 2) of (x, y) in [0, 1) -> the cell (x, y), int64, of a map of `size` (h, w) that each lies in."""
    return torch.stack([places[..., 0] * size[1], places[..., 1] * size[0]], -1).long()


def offsets(target: Question, output: Tensor) -> Tensor:
    """(B, M, 2): the true offsets on the output's map."""
    height, width = output.shape[1:3]
    start, end = cells(target["answer"], (height, width)).unbind(2)
    apart = end - start
    return torch.stack([apart[..., 0] / width, apart[..., 1] / height], -1)


def predicted_offsets(output: Tensor, target: Question) -> Tensor:
    """(B, M, 2): what the head says of the pairs that are asked."""
    height, width = output.shape[1:3]
    x, y = cells(target["asked"], (height, width)).unbind(-1)
    start, end = (y * width + x).unbind(-1)
    table = rearrange(output, "b h w i j xy -> b (h w i j) xy")
    return table.gather(1, (start * (height * width) + end)[..., None].expand(-1, -1, 2))


def _cell(corner: Tensor, size: tuple[int, int], images: Tensor) -> Tensor:
    """(B, 1, H, W) bool: the cell whose upper left corner lies at the shares `corner` (B, 2) of (x, y)."""
    x = (torch.arange(images.shape[-1], device=images.device) + 0.5) / images.shape[-1] - corner[
        :, 0, None
    ]
    y = (torch.arange(images.shape[-2], device=images.device) + 0.5) / images.shape[-2] - corner[
        :, 1, None
    ]
    column, row = (x >= 0) & (x < 1 / size[1]), (y >= 0) & (y < 1 / size[0])
    return rearrange(row, "b h -> b 1 h 1") & rearrange(column, "b w -> b 1 1 w")


@hookimpl
def mtl_components() -> list[type]:
    return [RelativeLocation]
