"""The decoder of dense tasks: feature maps of the encoder -> one fine map.

A light form of the feature pyramid: Lin et al., "Feature Pyramid Networks for Object Detection",
CVPR 2017, arXiv:1612.03144. A 1 x 1 convolution brings each map to the same width. From coarse to
fine, each is enlarged and added to the next. One 3 x 3 convolution smooths the result.

GroupNorm, and not BatchNorm: the answer for an image does not depend on the others of its batch.

Shapes: B images, (H, W) pixels of the image, (h, w) cells of the finest map that is read.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ...contracts import BuildContext, EncoderInfo, Features
from ...errors import MtlError
from ...networks import SharedHead

MOST_GROUPS = 8  # of GroupNorm
WIDTH, STRIDE = 64, 4  # of a decoder, unless the task sets them


class FpnDecoder(nn.Module):
    """Features -> (B, width, h, w).

    width: channels of the result.
    stride: maps finer than 1 / stride of the image are left out. The coarsest map is always read.
    """

    def __init__(self, info: EncoderInfo, width: int, stride: int) -> None:
        super().__init__()
        self.first = _finest(info, stride)
        channels = info.channels[self.first :]
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(width, MOST_GROUPS), width),
            nn.ReLU(inplace=True),
        )
        self.width = width

    def forward(self, features: Features) -> Tensor:
        maps = features.maps[self.first :]
        merged = self.laterals[-1](maps[-1])
        for lateral, finer in zip(reversed(self.laterals[:-1]), reversed(maps[:-1])):
            size = finer.shape[-2:]
            enlarged = F.interpolate(merged, size, mode="bilinear", align_corners=False)
            merged = lateral(finer) + enlarged
        smooth: Tensor = self.smooth(merged)
        return smooth


def decoder_of(context: BuildContext, width: int, stride: int, shared_with: str) -> nn.Module:
    """Return the decoder of a head: its own, or that of another task.

    shared_with: "" or the label of a task. Raises MtlError if there is no such task above this one,
    or if it has no decoder of its own.
    """
    if not shared_with:
        return FpnDecoder(context.info, width, stride)
    if shared_with not in context.heads:
        above = ", ".join(context.heads) or "none"
        raise MtlError(
            f'decoder = "{shared_with}": expected the label of a task that stands above this one '
            f"in the configuration ({above})"
        )
    other = getattr(context.heads[shared_with], "decoder", None)
    if not isinstance(other, FpnDecoder):
        raise MtlError(
            f'decoder = "{shared_with}": [task.{shared_with}] has no decoder of its own; expected '
            "the label of a task that has one, or no `decoder`"
        )
    return SharedHead(other)


def require_own_decoder(decoder: str, width: int, stride: int) -> None:
    """Raise ValueError if a task that shares the decoder of another one sets its size."""
    if decoder and (width, stride) != (WIDTH, STRIDE):
        raise ValueError(
            f"width and stride are those of [task.{decoder}], whose decoder is shared: remove "
            "them here, or remove `decoder`"
        )


def width_of(decoder: nn.Module) -> int:
    """Return the channels of a decoder's result."""
    net = decoder.net if isinstance(decoder, SharedHead) else decoder
    assert isinstance(net, FpnDecoder)
    return net.width


def _finest(info: EncoderInfo, stride: int) -> int:
    """Return the position of the finest map that is read."""
    height = info.image_size[0]
    for position, (rows, _) in enumerate(info.map_sizes):
        if rows * stride <= height:
            return position
    return len(info.map_sizes) - 1
