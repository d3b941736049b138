"""A plugin for the tests: an encoder that reads a value back, which torch.compile can't trace."""

from __future__ import annotations

from attrs import frozen
from torch import nn

from mtlcore import Encoder, Features, hookimpl


@frozen
class Branching(Encoder):
    """One convolution, with a branch on its output."""

    width: int = 4
    depths: tuple[int, ...] = ()

    def build(self, size):
        return _Net(self.width)


class _Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 2, 1)

    def forward(self, x):
        x = self.conv(x)
        if x.mean().item() > 1e6:
            x = x * 2
        return Features((x,), x.mean((2, 3)), shared=x)


@hookimpl
def mtl_components():
    return [Branching]
