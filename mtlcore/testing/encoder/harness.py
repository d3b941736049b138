"""An encoder on the harness: built for a size that it takes, and normalized images for it."""

from __future__ import annotations

import gc
from functools import cached_property

import torch
from torch import Tensor, nn

from ...contracts import Features
from ...errors import MtlError
from ..generators import seeded
from ..kit import require
from ..subject import Drawn, Subject, patterns

SIZES = (48, 32, 64)
"""Sides of images in pixels that are usual; 56 and 224 are tried where an encoder refuses them all."""
LARGE = 2_000_000  # parameters


class EncoderSubject(Subject):
    """An encoder on the harness. Networks are in eval mode."""

    imports = ("torch._dynamo",)
    last = 0  # parameters of the network that was built last

    def fresh(self, seed: int = 0, size: int | None = None) -> nn.Module:
        """Another network, its initial weights from this seed. A large one that nobody has any more goes first: traced ones hold
        themselves in a circle, and a dozen fill gigabytes until Python looks for circles by itself.
        """
        if self.last > LARGE:
            gc.collect()
        with seeded(seed):
            net: nn.Module = self.component.build(size or self.size)
        self.last = sum(p.numel() for p in net.parameters())
        return net.eval()

    @cached_property
    def size(self) -> int:
        """The first of the sides that it builds for. Raises its own MtlError where there is none."""
        said: MtlError | None = None
        for size in (*SIZES, 56, 224):
            try:
                self.fresh(size=size)
            except MtlError as error:
                said = error
            else:
                return size
        raise said or MtlError("it builds for no size")

    @cached_property
    def net(self) -> nn.Module:
        """The network that checks share; none of them may train it."""
        return self.fresh()

    def normalized(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> as the core's wrapper gives them to the network."""
        mean, std = (
            torch.tensor(x).view(3, 1, 1) for x in (self.component.mean, self.component.std)
        )
        normalized: Tensor = (images / 255 - mean) / std
        return normalized

    def images(self, samples: int = 3, seed: int = 0, size: int | None = None) -> Tensor:
        """(samples, 3, size, size) drawn images, normalized."""
        return self.normalized(patterns(samples, size or self.size, seed))

    def drawn(self, drawn: Drawn) -> Tensor:
        return self.images(drawn.samples, drawn.seed)

    @torch.no_grad()
    def features(self, images: Tensor, net: nn.Module | None = None) -> Features:
        found: Features = (net or self.net)(images)
        return found


def outputs(features: Features) -> dict[str, Tensor]:
    """Everything that a head may read, by name."""
    maps = {f"maps[{i}]": m for i, m in enumerate(features.maps)}
    return {**maps, "pooled": features.pooled, "shared": features.shared}


def require_same(
    expected: Features, found: Features, samples: slice = slice(None), tolerance: float = 1e-4
) -> None:
    """Both say the same of these samples, up to rounding."""
    for name, want in outputs(expected).items():
        got = outputs(found)[name]
        require(
            want.shape == got.shape, f"{name} is {tuple(got.shape)}, and was {tuple(want.shape)}"
        )
        apart = float(
            (got[samples] - want[samples]).abs().max() / want[samples].abs().max().clamp_min(1e-6)
        )
        require(apart <= tolerance, f"{name} differs by {apart:.2g} of its largest value")
