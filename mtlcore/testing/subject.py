"""What a check receives: a built plugin, and drawn examples.

Hypothesis is imported only when examples are drawn. The lists of checks can be read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import torch
from attrs import define, frozen
from torch import Tensor

from ..contracts import Component
from ..registry.catalog import Catalog
from ..rng import KeyedRng, Rng

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

C = TypeVar("C", bound=Component)
SIZES = (32, 40, 48)
"""Image sizes of drawn examples, in pixels."""


@frozen
class Drawn:
    """One drawn example.

    samples: the batch size. size: the image size in pixels. seed: the seed of all tensors.
    """

    samples: int
    size: int
    seed: int

    def keyed_rng(self, purpose: int = 0) -> KeyedRng:
        return KeyedRng((self.seed, purpose))

    def rng(self, purpose: str = "draws") -> Rng:
        """A new generator: the same seed and purpose give the same draws."""
        return KeyedRng((self.seed,))(purpose)

    def images(self) -> Tensor:
        """(samples, 3, size, size) uint8: color gradients, shapes and noise, different images."""
        return patterns(self.samples, self.size, self.seed)


def batches(
    samples: tuple[int, int] = (2, 4), sizes: tuple[int, ...] = SIZES
) -> SearchStrategy[Drawn]:
    """The strategy of `Drawn`.

    Shapes and seeds are drawn. Tensors are computed from them, so that shrinking stays fast.
    """
    from hypothesis import strategies as st

    return st.builds(Drawn, st.integers(*samples), st.sampled_from(sizes), st.integers(0, 2**16))


def patterns(samples: int, size: int, seed: int) -> Tensor:
    """(samples, 3, size, size) uint8 images, without symmetry under quarter turns and mirrors."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    u = torch.rand(samples, 12, generator=generator)[..., None, None]

    slope = torch.stack([u[:, i] * x + u[:, 3 + i] * y for i in range(3)], 1) / 2
    blob = torch.exp(-(((x - u[:, 6]) ** 2 + (y - u[:, 7]) ** 2) / (0.02 + 0.1 * u[:, 8])))
    wave = 0.5 + 0.5 * torch.sin(20 * u[:, 9] * x + 12 * u[:, 10] * y + 6 * u[:, 11])
    noise = torch.rand(samples, 3, size, size, generator=generator)

    image = 0.5 * slope + 0.25 * blob[:, None] + 0.15 * wave[:, None] + 0.1 * noise
    return (image.clamp(0, 1) * 255).round().byte()


def coordinates(samples: int, height: int, width: int) -> Tensor:
    """(samples, 2, H, W): x and y of each pixel's center."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y]).expand(samples, -1, -1, -1)


@define(eq=False, slots=False)
class Subject(Generic[C]):
    """One plugin in the kit.

    fields: values that differ from the defaults. catalog: the other components.
    """

    name: str
    cls: type[C]
    fields: Mapping[str, object]
    catalog: Catalog

    imports: ClassVar[tuple[str, ...]] = ()
    """Modules with slow imports. They are imported first, outside any check's measured time."""

    @cached_property
    def component(self) -> C:
        """The plugin, built from its fields."""
        return self.cls(**self.fields)

    @property
    def lacks(self) -> Mapping[str, str]:
        """The capabilities that it lacks: a class attribute, or a property of the component."""
        lacks = getattr(self.cls, "lacks", {})
        if isinstance(lacks, property):
            lacks = self.component.lacks
        return lacks if isinstance(lacks, Mapping) else {}
