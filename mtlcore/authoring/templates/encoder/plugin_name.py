"""plugin_name: a small convolutional network; the shared encoder of all tasks.

Replace this by your own network: how it is built, and the paper it comes from.
Shapes: B images (B, 3, H, W), normalized by the core; maps (B, C, h, w), fine first.
"""

from __future__ import annotations

from itertools import pairwise

from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from mtlcore import Encoder, Features, hookimpl


@frozen
class PluginName(Encoder):
    """Convolutions of stride 2, each with group normalization, which needs no other image of the batch.

    width: channels of the first stage, doubled by each further one. stages: how many of them.
    """

    name = "plugin_name"
    cites = "original"
    width: int = field(default=16, validator=ge(1))
    stages: int = field(default=4, validator=in_((2, 3, 4, 5)))

    def build(self, image_size: int) -> nn.Module:
        return PluginNameNet(self.width, self.stages)


class PluginNameNet(nn.Module):
    """(B, 3, H, W) -> one map a stage; pooled is the mean of the last, (B, width * 2 ** (stages - 1))."""

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        channels = [3, *(width << i for i in range(stages))]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.GroupNorm(1, b), nn.ReLU()
            )
            for a, b in pairwise(channels)
        )

    def forward(self, images: Tensor) -> Features:
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), x.mean((2, 3)), x)


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
