"""What flows through a step: batches, views, features, and what the heads read.

Shape legend: B samples, D width of the pooled features, (H, W) pixels, (h, w) cells of a map.
Images are RGB in [0, 1], float (B, 3, H, W), everywhere; only the core's encoder wrapper normalizes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor
from torch.utils._pytree import tree_map

from ..geometry import Geometry, Move

Target = Any  # a tensor, or a tuple / list / dict of tensors, each (B, ...)
Annotation = np.ndarray
"""One label kind of N samples. Categories: (N,) strings, "" where missing. Numbers: (N,) or (N, ...) float, NaN where missing.
Categories travel by NAME, so the label orders of two data sets can never be mixed up."""


@frozen
class StepCounts:
    """Samples of ONE optimizer step, over all ranks and micro-batches: host ints, known to the sampler before the first forward.

    labeled: task label -> samples that carry it. samples: all. unlabeled_samples: those that carry no label at all.
    """

    labeled: dict[str, int]
    samples: int
    unlabeled_samples: int


@frozen(eq=False)
class Batch:
    """One micro-batch, as the loader gives it. A sample may carry labels for some tasks, for all, or for none.

    images: (B, 3, H0, W0) uint8. targets: task label -> (B, ...); samples without that label hold ZEROS. present: task label -> (B,)
    bool, who carries it. counts: of the whole step. labeled_samples: so many samples, the first ones, carry a label; the others none.
    """

    images: Tensor
    targets: dict[str, Tensor]
    present: dict[str, Tensor]
    counts: StepCounts
    labeled_samples: int


@frozen(eq=False)
class View:
    """Images that an encoder may read, and how their pixels got where they are.

    images: (B, 3, H, W) float in [0, 1].
    geometry: None means "no whole image of the sample" (a patch), and no supervised head reads such a view. Every other view may
    be read, the labels moved as the geometry says.
    mix: mixup or cutmix: the partner of each sample (B,) int64, and the sample's own share (B,) in [0, 1].
    augmentation: whose `finish` these images get; set by the batch, kept by all that is derived. None: the run's own augmentation.
    """

    images: Tensor
    geometry: Geometry | None = None
    mix: tuple[Tensor, Tensor] | None = None
    augmentation: str | None = None

    def repaint(self, images: Tensor) -> View:
        """Other colors in the same places: masks, noise, gray. Every label stays as it is."""
        return evolve(self, images=images)

    def rearrange(self, move: Move, matrix: Tensor | None = None) -> View:
        """Other places. `move` (B, C, H, W) -> (B, C, H', W') acts on the images now and on dense labels (masks) later.

        matrix: (B, 3, 3) old -> new where the image moved as a whole, so that rigid labels (pose) follow. Without one they stay
        as they were: right for shuffled parts, wrong for an image that turned. Supervised heads may read the view either way.
        """
        geometry = self.geometry and self.geometry.moved(move, matrix)
        return evolve(self, images=move(self.images), geometry=geometry)

    def resize(self, size: tuple[int, int]) -> View:
        """The whole image, bilinearly scaled to `size` (h, w)."""
        height, width = self.images.shape[-2:]
        step = Geometry.resize((height, width), size, self.images)
        return evolve(
            self,
            images=step.warp(self.images, "bilinear"),
            geometry=self.geometry and self.geometry.then(step),
        )


class AugmentedBatch(Protocol):
    """A batch of samples that a pretext may look at, as often as it likes."""

    @property
    def clean(self) -> View:
        """The batch augmented once: shared by all heads. Never edit its images in place."""
        ...

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1)."""
        ...

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        """The number-th independent augmentation: drawn when first asked for, then shared by all who ask.

        augmentation: another one than the run's, by name (FixMatch's weak view in a strong run).
        """
        ...


class Features(NamedTuple):
    """What the encoder says of one view.

    maps: each (B, C_i, h_i, w_i), fine first, coarse last. pooled: (B, D). shared: the tensor through which every head's gradient
    passes: maps[-1], or a ViT's tokens (B, T, D). images: (B, 3, H, W) in [0, 1], as read; the core sets it, an encoder leaves it
    None. (A NamedTuple, since torch.compile, FSDP and DDP look into it, and not into attrs.)
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    shared: Tensor
    images: Tensor | None = None


@frozen
class EncoderInfo:
    """What the core measured of an encoder with one dry forward; no plugin declares it.

    dim: D, the width of `Features.pooled`. channels: C of each map, fine first. map_sizes: (h, w) of each map, cells. image_size:
    side of the square images that were read, pixels (`input.size`).
    """

    dim: int
    channels: tuple[int, ...]
    map_sizes: tuple[tuple[int, int], ...]
    image_size: int


class HeadInput(NamedTuple):
    """One call of a head: the images it reads, what it must answer, how much each sample counts."""

    images: tuple[int, ...]  # positions in PreparedBatch.images
    targets: tuple[
        tuple[Target, Tensor | None], ...
    ]  # (target, share (B,)); share None: all count 1. Two with mixup

    @property
    def share(self) -> Tensor | None:
        """(B,) how much each sample counts over all its answers."""
        shares = [share for _, share in self.targets if share is not None]
        return torch.stack(shares).sum(0) if shares else None


@frozen(eq=False)
class PreparedBatch:
    """Everything that one forward needs: can be prefetched, moved, sliced, saved, replayed.

    Not a pytree on purpose: Fabric casts every float that it finds in a forward's arguments to bf16, targets included.
    """

    images: tuple[Tensor, ...]  # DISTINCT images, float in [0, 1]; each is encoded once
    head_inputs: dict[str, tuple[HeadInput, ...]]
    scale: dict[
        str, float
    ]  # sum over samples x scale = this part's loss, in units of the step's mean
    clean: tuple[
        tuple[int, int], ...
    ] = ()  # statistics = "clean": positions of the clean views, their labeled samples

    def map(self, fn: Callable[[Tensor], Tensor]) -> PreparedBatch:
        """`fn` on every tensor."""
        images, head_inputs = tree_map(
            lambda x: fn(x) if isinstance(x, Tensor) else x, (self.images, self.head_inputs)
        )
        return evolve(self, images=images, head_inputs=head_inputs)

    def cut(self, samples: slice, scale: float = 1.0) -> PreparedBatch:
        """A slice of the samples, where all images have the same B: what one rank or one micro-batch of these prepared sees."""
        return evolve(
            self.map(lambda x: x[samples]),
            scale={k: v * scale for k, v in self.scale.items()},
            clean=(),
        )
