"""The harness of an encoder: networks of a size that it supports, and normalized images."""

from __future__ import annotations

import gc
from functools import cached_property

import torch
from torch import Tensor, nn

from ...contracts import Encoder, Features
from ...errors import MtlError
from ...image_size import image_size
from ..generators import seeded
from ..requirements import require, require_shape
from ..subject import Drawn, Subject, patterns

SIZES = (48, 32, 64)
"""Usual image sizes in pixels."""
FALLBACK_SIZES = (56, 224)
"""Sizes for encoders that refuse all usual ones."""
LARGE = 2_000_000  # parameters


class EncoderSubject(Subject[Encoder]):
    """An encoder in the harness. Networks are in eval mode."""

    imports = ("torch._dynamo",)
    last_parameters = 0  # of the network that was built last

    def fresh(self, seed: int = 0, size: int | tuple[int, int] | None = None) -> nn.Module:
        """A new network. The seed determines its weights. size: one number or (h, w), in pixels."""
        # Traced networks are in reference cycles. A dozen large ones would fill gigabytes before
        # Python collects them.
        if self.last_parameters > LARGE:
            gc.collect()
        with seeded(seed):
            net: nn.Module = self.component.build(image_size(size or self.size))
        self.last_parameters = sum(p.numel() for p in net.parameters())
        return net.eval()

    @cached_property
    def size(self) -> int:
        """The first size that it supports. Raises its own MtlError if there is none."""
        refusal: MtlError | None = None
        for size in (*SIZES, *FALLBACK_SIZES):
            try:
                self.fresh(size=size)
            except MtlError as error:
                refusal = error
            else:
                return size
        raise refusal or MtlError("it builds for no size")

    @cached_property
    def net(self) -> nn.Module:
        """The network that checks share. They must not train it."""
        return self.fresh()

    def normalized(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float, as the core's wrapper passes it to the network."""
        mean = torch.tensor(self.component.mean).view(3, 1, 1)
        std = torch.tensor(self.component.std).view(3, 1, 1)
        normalized: Tensor = (images / 255 - mean) / std
        return normalized

    def images(self, samples: int = 3, seed: int = 0, size: int | None = None) -> Tensor:
        """(samples, 3, size, size) normalized images."""
        return self.normalized(patterns(samples, size or self.size, seed))

    def drawn(self, drawn: Drawn) -> Tensor:
        return self.images(drawn.samples, drawn.seed)

    @torch.no_grad()
    def features(self, images: Tensor, net: nn.Module | None = None) -> Features:
        features: Features = (net or self.net)(images)
        return features


def outputs(features: Features) -> dict[str, Tensor]:
    """All tensors that a head may read, by name."""
    maps = {f"maps[{i}]": m for i, m in enumerate(features.maps)}
    return {**maps, "pooled": features.pooled, "shared": features.shared}


def require_close(
    expected: Features, found: Features, samples: slice = slice(None), tolerance: float = 1e-4
) -> None:
    """Require the same features of these samples. tolerance: relative to the largest value."""
    found_by_name = outputs(found)
    for name, wanted in outputs(expected).items():
        got = found_by_name[name]
        require_shape(got, tuple(wanted.shape), name)
        require_near(wanted[samples], got[samples], name, tolerance)


def require_near(expected: Tensor, found: Tensor, name: str, tolerance: float = 1e-4) -> None:
    """Require the same values. tolerance: relative to the largest one."""
    largest = expected.abs().max().clamp_min(1e-6)
    difference = float((found - expected).abs().max() / largest)
    require(difference <= tolerance, f"{name} differs by {difference:.2g} of its largest value")
