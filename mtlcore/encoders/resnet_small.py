"""A small residual network for CPUs, after ResNet.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.

A 3 x 3 stem and, by default, four stages of torchvision's basic blocks with BatchNorm. The stages
have widths w x (1, 2, 4, 8) and strides 1 2 2 2. With images of 48 pixels, w = 16 and a stem of
stride 2, a training step of 64 images takes about 0.1 s on one core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import and_, deep_iterable, ge, in_, le, max_len, min_len
from torch import Tensor, nn

from ..contracts import Encoder, Features, Layer


@frozen
class ResnetSmall(Encoder):
    """A residual network of basic blocks, small enough for a CPU.

    width: channels of the first stage; each further stage doubles them.
    stem_stride: 1, or 2 to halve the image in the first convolution.
    depths: blocks of each stage.
    """

    width: int = field(default=16, validator=and_(ge(1), le(2048)))
    stem_stride: int = field(default=1, validator=in_((1, 2)))
    depths: tuple[int, ...] = field(
        default=(2, 2, 2, 2),
        validator=deep_iterable(and_(ge(1), le(100)), iterable_validator=[min_len(1), max_len(6)]),
    )

    def build(self, size: tuple[int, int]) -> nn.Module:
        return _ResnetSmall(self)

    def layers(self, net: nn.Module) -> Sequence[Layer]:
        found = [Layer(0, ("stem",))]
        for stage, depth in enumerate(self.depths):
            found += [Layer(stage + 1, (f"stages.{stage}.{block}",)) for block in range(depth)]
        return found


class _ResnetSmall(nn.Module):
    """Normalized images (B, 3, H, W) -> Features.

    There is one map for each stage. `pooled` is the mean of the last map, (B, 8 x width) with four
    stages.
    """

    def __init__(self, config: ResnetSmall) -> None:
        super().__init__()
        width = config.width
        # With so few channels, channels_last makes a step on a CPU 1.25 to 1.4 times as fast, and
        # tensor cores prefer it too. It is limited to multiples of 16: with 4 or 8 channels,
        # torch 2.15's backward on a CPU writes beyond its memory.
        # Only the input is converted. Convolutions follow the layout of their input, so the weights
        # stay contiguous, as safetensors requires.
        self.memory_format = torch.channels_last if width % 16 == 0 else torch.contiguous_format
        self.stem = nn.Sequential(
            nn.Conv2d(
                3,
                width,
                3,
                config.stem_stride,
                padding=1,
                bias=False,
            ),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.ModuleList()
        in_channels = width
        for i, depth in enumerate(config.depths):
            channels = width << i
            stride = 2 if i else 1
            self.stages.append(_stage(in_channels, channels, depth, stride))
            in_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Features:
        maps = self.finest_maps(images, len(self.stages))
        x = maps[-1]
        return Features(maps, x.mean((2, 3)), x)

    def finest_maps(self, images: Tensor, number: int) -> tuple[Tensor, ...]:
        """Return the first `number` maps. Later stages do not run."""
        x = self.stem(images.contiguous(memory_format=self.memory_format))
        maps = []
        for i in range(number):
            x = self.stages[i](x)
            maps.append(x)
        return tuple(maps)


def _stage(
    in_channels: int,
    channels: int,
    depth: int,
    stride: int,
) -> nn.Sequential:
    """Return `depth` basic blocks. The first one changes the channels and the resolution."""
    # Imported late: torchvision takes 1.9 s.
    from torchvision.models.resnet import BasicBlock, conv1x1

    downsample = None
    if stride != 1 or in_channels != channels:
        downsample = nn.Sequential(conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
    first = BasicBlock(in_channels, channels, stride, downsample)
    others = [BasicBlock(channels, channels) for _ in range(depth - 1)]
    return nn.Sequential(first, *others)
