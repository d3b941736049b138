"""What a check is given: one plugin, built, on a bench of toy networks and drawn images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from attrs import define, frozen
from hypothesis import strategies as st
from torch import Tensor

from ..contracts import Component
from ..registry.catalog import Catalog
from ..rng import KeyedRng, Rng


@frozen
class Drawn:
    """One drawn example: how many samples, the side of the images in pixels, and the seed that all tensors are built from."""

    samples: int
    size: int
    seed: int

    def keyed_rng(self, purpose: int = 0) -> KeyedRng:
        return KeyedRng((self.seed, purpose))

    def rng(self, purpose: str = "draws") -> Rng:
        """A fresh generator: the same seed and purpose, the same draws."""
        return KeyedRng((self.seed,))(purpose)

    def images(self) -> Tensor:
        """(samples, 3, size, size) uint8: smooth color gradients, shapes and noise, another for each sample."""
        return patterns(self.samples, self.size, self.seed)


def draws(
    samples: tuple[int, int] = (2, 4), sizes: tuple[int, ...] = (32, 40, 48)
) -> st.SearchStrategy[Drawn]:
    """Drawn examples; shapes and seeds are drawn, tensors are built from them, so that shrinking stays fast."""
    return st.builds(Drawn, st.integers(*samples), st.sampled_from(sizes), st.integers(0, 2**16))


def patterns(samples: int, size: int, seed: int) -> Tensor:
    """(samples, 3, size, size) uint8 images that no quarter turn and no mirror maps onto themselves."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    u = torch.rand(samples, 12, generator=generator)[..., None, None]
    slope = torch.stack([u[:, i] * x + u[:, 3 + i] * y for i in range(3)], 1) / 2
    blob = torch.exp(-(((x - u[:, 6]) ** 2 + (y - u[:, 7]) ** 2) / (0.02 + 0.1 * u[:, 8])))
    wave = 0.5 + 0.5 * torch.sin(20 * u[:, 9] * x + 12 * u[:, 10] * y + 6 * u[:, 11])
    noise = torch.rand(samples, 3, size, size, generator=generator)
    image = 0.5 * slope + 0.25 * blob[:, None] + 0.15 * wave[:, None] + 0.1 * noise
    return (image.clamp(0, 1) * 255).round().byte()


@define(eq=False, slots=False)
class Subject:
    """One plugin on the harness. fields: what is not at its default. catalog: where other components are found."""

    name: str
    cls: type[Component]
    fields: Mapping[str, Any]
    catalog: Catalog

    imports: ClassVar[tuple[str, ...]] = ()
    """Modules that take seconds to import, and belong to no check's time."""

    @cached_property
    def component(self) -> Any:
        """The plugin, built from its fields."""
        return self.cls(**self.fields)

    @property
    def lacks(self) -> Mapping[str, str]:
        """What it says it lacks; a class attribute, or a property of the built component."""
        said = getattr(self.cls, "lacks", {})
        if isinstance(said, property):
            said = self.component.lacks
        return said if isinstance(said, Mapping) else {}
