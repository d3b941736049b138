"""A toy encoder of a few hundred weights, for the heads that checks build."""

from __future__ import annotations

from itertools import pairwise

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
