"""A small residual network for a CPU, after He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

A 3 x 3 stem and four stages of torchvision's basic blocks, widths w x (1, 2, 4, 8), strides 1 2 2 2, BatchNorm. At
48 px with width 16 and a stem of stride 2 a training step of 64 images costs about 0.1 s of one core.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, in_, max_len, min_len
from torch import Tensor, nn

from ..contracts import Encoder, Features


@frozen
class ResnetSmall(Encoder):
    """width: channels of the first stage. stem_stride: 1, or 2 to halve the image at once. depths: blocks a stage."""

    width: int = field(default=16, validator=ge(1))
    stem_stride: int = field(default=1, validator=in_((1, 2)))
    depths: tuple[int, ...] = field(
        default=(2, 2, 2, 2),
        validator=deep_iterable(ge(1), iterable_validator=[min_len(1), max_len(6)]),
    )

    def build(self, image_size: int) -> nn.Module:
        return _ResnetSmall(self)


class _ResnetSmall(nn.Module):
    """Normalized images (B, 3, H, W) -> Features: one map a stage; pooled is the mean of the last, (B, 8 x width).

    Widths that are multiples of 16 run in channels_last: a step is 1.25-1.4 x faster for so few channels on a CPU, and
    tensor cores like it too. Others don't: with 4 or 8 channels torch 2.15's backward on a CPU writes past its memory.
    Convolutions follow their input's layout, so the weights stay contiguous, as files need them.
    """

    def __init__(self, shape: ResnetSmall) -> None:
        super().__init__()
        width = shape.width
        self.layout = torch.channels_last if width % 16 == 0 else torch.contiguous_format
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, shape.stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages, came = nn.ModuleList(), width
        for i, depth in enumerate(shape.depths):
            self.stages.append(_stage(came, width << i, depth, stride=2 if i else 1))
            came = width << i
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Features:
        x = self.stem(images.contiguous(memory_format=self.layout))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return Features(tuple(maps), x.mean((2, 3)), x)


def _stage(came: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """`depth` basic blocks; the first changes width and size, with a 1 x 1 convolution beside it where it does."""
    from torchvision.models.resnet import BasicBlock, conv1x1  # late: 1.9 s

    beside = None
    if stride != 1 or came != width:
        beside = nn.Sequential(conv1x1(came, width, stride), nn.BatchNorm2d(width))
    first = BasicBlock(came, width, stride, beside)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(depth - 1)))
