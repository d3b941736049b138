"""plugin_name: a small convolutional network, as the shared encoder of all tasks.

Replace this text with your own: how the network is built, and the paper.
Shapes: B images (B, 3, H, W), normalized by mtlcore; feature maps (B, C, h, w), fine to coarse.
"""

from __future__ import annotations

from itertools import pairwise

from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from mtlcore import Encoder, Features, hookimpl


@frozen
class PluginName(Encoder):
    """Convolutions of stride 2, each followed by group normalization and a ReLU.

    width: channels of the first stage; each further stage doubles them.
    stages: number of convolutions. Each one halves the height and the width.
    """

    name = "plugin_name"
    cites = "original"
    width: int = field(default=16, validator=ge(1))
    stages: int = field(default=4, validator=in_((2, 3, 4, 5)))

    def build(self, size: tuple[int, int]) -> nn.Module:
        return PluginNameNet(self.width, self.stages)


class PluginNameNet(nn.Module):
    """(B, 3, H, W) -> Features with one map per stage.

    pooled is the mean of the last map: (B, width * 2 ** (stages - 1)).
    """

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        channels = [3, *(width * 2**i for i in range(stages))]
        self.stages = nn.ModuleList(
            conv_block(before, after) for before, after in pairwise(channels)
        )

    def forward(self, images: Tensor) -> Features:
        x = images
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        # The third value is the last tensor that all heads read. Weightings that balance the
        # gradients of the tasks compare them at this tensor.
        return Features(tuple(maps), x.mean((2, 3)), x)


def conv_block(before: int, after: int) -> nn.Module:
    """(B, before, H, W) -> (B, after, H / 2, W / 2)."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
        # Group normalization does not mix samples, so a prediction depends on its own image alone.
        nn.GroupNorm(1, after),
        nn.ReLU(),
    )


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
