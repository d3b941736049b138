"""A toy encoder of a few hundred weights, for the heads that checks build."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from ..contracts import Encoder, Features


@frozen
class ToyEncoder(Encoder):
    """Three strided convolutions with BatchNorm."""

    width: int = 4

    def build(self, size: tuple[int, int]) -> nn.Module:
        return _ToyNet(self.width)


class _ToyNet(nn.Module):
    """(B, 3, H, W) -> maps of 1/2, 1/4 and 1/8 of the size, and their pooled mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = pairwise((3, width, 2 * width, 4 * width))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.LeakyReLU(0.1))
            for i, o in sizes
        )

    def forward(self, x: Tensor) -> Features:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), x.mean((2, 3)), x)

    def forward_visible(self, x: Tensor, cells: Tensor) -> Features:
        """Encode these cells of the coarse map, for pretexts that hide parts of an image."""
        height, width = (-(-side // 8) for side in x.shape[-2:])
        shown = x.new_zeros(len(x), height * width).scatter(1, cells, 1.0)
        shown = shown.view(-1, 1, height, width)
        *finer, coarse = self(x * F.interpolate(shown, x.shape[-2:])).maps
        places = cells[:, None].expand(-1, coarse.shape[1], -1)
        tokens = coarse.flatten(2).gather(2, places).transpose(1, 2)
        return Features((*finer, coarse * shown), tokens.mean(1), tokens)
