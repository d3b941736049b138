"""The data of a step: batches, views, features, and the inputs of heads.

Shapes: B samples, N samples of a dataset, D pooled features, C channels, (H0, W0) pixels of raw
images, (H, W) pixels of views, (h, w) cells of a feature map, T tokens.

Images are RGB, float (B, 3, H, W) in [0, 1]. Only the core's encoder wrapper normalizes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.utils._pytree import tree_map

from ..geometry import Geometry, Move
from .visible import Visible

Target = Any
"""The target of a head: a tensor, or a tuple, list or dict of tensors, each (B, ...).

The alias is Any, since each head declares the precise type of its own targets.
"""

Output = Any
"""The output of a head. It has the same forms as `Target`."""

Annotation = np.ndarray
"""One kind of label for N samples, as a task receives it.

Categories: (N,) strings, "" if missing. Numbers: (N,) or (N, ...) float, NaN if missing.

Categories are identified by NAME, never by number, so the label orders of two datasets cannot be
confused.
"""


Answer = dict[str, Any]
"""The prediction of a task for one image, in words and real units: JSON values by name."""


@frozen
class StepCounts:
    """Number of samples in ONE optimizer step, over all ranks and micro-batches.

    They are host ints, which the sampler knows before the first forward.

    labeled: task label -> samples that have this label.
    samples: all samples.
    unlabeled_samples: samples without any label.
    """

    labeled: dict[str, int]
    samples: int
    unlabeled_samples: int


@frozen(eq=False)
class Batch:
    """One micro-batch of the loader. Each sample can have labels of all tasks, of some, or of none.

    images: (B, 3, H0, W0) uint8.
    targets: task label -> (B, ...). Samples without this label hold ZEROS (points: NaN). For an
    `AlignedTask` they are maps or points in the pixels of `images`.
    present: task label -> (B,) bool, True for samples with this label.
    counts: of the whole step.
    labeled_samples: number of samples with at least one label. They come first.
    """

    images: Tensor
    targets: dict[str, Tensor]
    present: dict[str, Tensor]
    counts: StepCounts
    labeled_samples: int

    @classmethod
    def unlabeled(cls, images: Tensor) -> Batch:
        """Return a whole step of images without labels. images: (B, 3, H0, W0) uint8."""
        n = len(images)
        return cls(images, {}, {}, StepCounts({}, n, n), 0)

    @classmethod
    def labeled(cls, images: Tensor, targets: dict[str, Tensor]) -> Batch:
        """Return a whole step in which each sample has a label of each task.

        images: (B, 3, H0, W0) uint8. targets: task label -> (B, ...).
        """
        n = len(images)
        present = {
            label: torch.ones(n, dtype=torch.bool, device=images.device) for label in targets
        }
        counts = StepCounts(dict.fromkeys(targets, n), n, 0)
        return cls(images, targets, present, counts, n)

    def first(self, n: int) -> Batch:
        """Return the first n samples as a whole step, for a dry run of every head.

        Its counts are n labels of each task and n unlabeled samples, so that every head runs, even
        if these samples have no label of its task. At least one sample counts as unlabeled.
        """
        return Batch(
            images=self.images[:n],
            targets={label: target[:n] for label, target in self.targets.items()},
            present={label: has_label[:n] for label, has_label in self.present.items()},
            counts=StepCounts(dict.fromkeys(self.targets, n), n, n),
            labeled_samples=min(n - 1, self.labeled_samples),
        )


@frozen(eq=False)
class Mix:
    """How a view was mixed from the samples of a batch, for mixup and cutmix.

    partner: (B,) int64, the sample that is mixed into each sample.
    share: (B,) in [0, 1], the weight w of the sample itself. The partner's is 1 - w.
    region: for cutmix: (B, 1, H, W) bool, True for the pixels that show the partner. None if all
    pixels are blended.
    before, later: movement of the pixels before and after mixing. None if nothing moved after it.
    `View.rearrange` and `View.resize` set both.

    `View.mix` makes it. The loss of sample i with the partner j is then

        w * loss(answer, label of i) + (1 - w) * loss(answer, label of j)

    where a missing label has no loss. Losses that are linear in their target (cross-entropy, with
    label smoothing or not; binary cross-entropy) thus equal the loss of the mixed target. Maps are
    mixed as their pixels: cutmix pastes the partner's map, mixup has both losses. Points can't be
    mixed: those that a region hides are unknown, and a blended view (w < 1) has none.
    """

    partner: Tensor
    share: Tensor
    region: Tensor | None = None
    before: Geometry | None = None
    later: Geometry | None = None

    def then(self, step: Geometry, geometry: Geometry | None) -> Mix:
        """Return the mix of the view after one more movement `step` of its pixels.

        geometry: the geometry of the view before this step.
        """
        region = None if self.region is None else step.warp(self.region)
        if self.later is None:
            return evolve(self, region=region, before=geometry, later=step)
        return evolve(self, region=region, later=self.later.then(step))


@frozen(eq=False)
class View:
    """Images for the encoder, and how their pixels moved.

    images: (B, 3, H, W) float in [0, 1].
    geometry: movement of the pixels, which labels follow. None if the view is not a whole image of
    the sample (a patch). Supervised heads never receive such a view.
    mixed: for mixup and cutmix: how the images were mixed from other samples. `mix` sets it.
    augmentation: name of the augmentation whose `finish` these images receive. None: that of the
    run. The batch sets it, and derived views inherit it.
    visible: the parts that the encoder reads; None: all. `only` sets it.
    """

    images: Tensor
    geometry: Geometry | None = None
    mixed: Mix | None = None
    augmentation: str | None = None
    visible: Visible | None = None

    def repaint(self, images: Tensor) -> View:
        """Return a view with other colors in the same places: masks, noise, gray.

        No label changes. images: (B, 3, H, W), as this view's.
        """
        return evolve(self, images=images)

    def only(self, visible: Visible) -> View:
        """Return the same images, of which the encoder reads the visible parts alone (MAE).

        Only for encoders whose `encodes_visible` is true (see `BuildContext`): check it in `build`.
        Call it last: the parts do not follow when pixels move. The images must have the size of the
        run's images. Hide the other parts before, by `repaint`: they are drawn in previews.
        """
        return evolve(self, visible=visible)

    def rearrange(self, move: Move, matrix: Tensor | None = None) -> View:
        """Return a view whose pixels are in other places.

        move: (B, C, H, W) -> (B, C, H', W'). It is applied to the images now, and to dense labels
        (masks) later.
        matrix: (B, 3, 3), old to new pixel coordinates, if each image moved as a whole. Rigid
        labels (pose) and points follow it. Without a matrix, rigid labels do not change (right for
        shuffled tiles, wrong for a rotated image), and points become NaN.
        """
        self._require_whole("rearrange")
        geometry = self.geometry
        if geometry is not None:
            geometry = geometry.moved(move, matrix)

        mixed = self.mixed
        if mixed is not None:
            step = Geometry.identity(self.images).moved(move, matrix)
            mixed = mixed.then(step, self.geometry)

        return evolve(self, images=move(self.images), geometry=geometry, mixed=mixed)

    def resize(self, size: tuple[int, int]) -> View:
        """Return the whole image scaled to `size` (h, w), in pixels. Interpolation: bilinear."""
        self._require_whole("resize")
        height, width = self.images.shape[-2:]
        step = Geometry.resize((height, width), size, self.images)
        geometry = self.geometry
        if geometry is not None:
            geometry = geometry.then(step)

        mixed = self.mixed
        if mixed is not None:
            mixed = mixed.then(step, self.geometry)

        images = step.warp(self.images, "bilinear")
        return evolve(self, images=images, geometry=geometry, mixed=mixed)

    def mix(
        self, partner: Tensor, share: Tensor | None = None, region: Tensor | None = None
    ) -> View:
        """Return a view with another sample of the batch mixed into each. Labels follow (`Mix`).

        Set `share` for mixup: image i becomes w_i * image_i + (1 - w_i) * image_partner(i).
        Set `region` for cutmix: its pixels show the partner's pixels of the same places. w_i is
        then the share of the other pixels.

        partner: (B,) int64. Use a permutation: each label then counts once a batch, on average.
        share: (B,) in [0, 1], the weights w_i. region: (B, 1, H, W) bool.
        The class of the augmentation must set `mixes = True`. Raises ValueError unless one of
        `share` and `region` is set, and if the view is mixed already.
        """
        self._require_whole("mix")
        if (share is None) == (region is None):
            raise ValueError("View.mix: set exactly one of share (mixup) and region (cutmix)")
        if self.mixed is not None:
            raise ValueError("View.mix: the view is mixed already, and labels follow only one mix")

        other = self.images[partner]
        if region is not None:
            share = 1 - region.float().mean((1, 2, 3))
            images = torch.where(region, other, self.images)
        else:
            assert share is not None
            # `lerp` leaves a sample as it is, bit for bit, if its share is 1 or its partner itself.
            images = torch.lerp(other, self.images, share[:, None, None, None])
        return evolve(self, images=images, mixed=Mix(partner, share, region))

    def _require_whole(self, method: str) -> None:
        if self.visible is not None:
            raise ValueError(f"View.{method} after View.only: call `only` last")


class AugmentedBatch(Protocol):
    """The samples of a micro-batch, as a pretext task receives them."""

    @property
    def clean(self) -> View:
        """The batch, augmented once. All heads share this view: never edit its images in place."""
        ...

    @property
    def progress(self) -> float:
        """Completed share of the run, in [0, 1)."""
        ...

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        """Return the number-th independent augmentation of the batch.

        It is drawn on first use. Every caller with the same arguments shares it.

        augmentation: name of another augmentation than the run's (FixMatch's weak view). Raises
        MtlError if the name is unknown.
        """
        ...


class Features(NamedTuple):
    """The encoder's output for one view.

    maps: feature maps, each (B, C_i, h_i, w_i), from fine to coarse.
    pooled: (B, D).
    shared: the tensor through which the gradient of every head passes: maps[-1], or the tokens
    (B, T, D) of a ViT.
    images: (B, 3, H, W) in [0, 1], the encoder's input. The core sets it; encoders leave it None.
    cells: (B, n) int64, the cells of maps[-1] that were encoded, in a view with hidden parts
    (`View.only`); `shared` holds their n tokens. None: all cells. The core sets it, too.

    A NamedTuple, since torch.compile, FSDP and DDP can traverse it, unlike an attrs class.
    """

    maps: tuple[Tensor, ...]
    pooled: Tensor
    shared: Tensor
    images: Tensor | None = None
    cells: Tensor | None = None


@frozen
class EncoderInfo:
    """Sizes of an encoder's features. The core measures them with one dry forward.

    dim: D, width of `Features.pooled`.
    channels: C of each map, from fine to coarse.
    map_sizes: (h, w) of each map, in cells.
    image_size: (height, width) of the images, in pixels (`input.size`).
    """

    dim: int
    channels: tuple[int, ...]
    map_sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]


class HeadInput(NamedTuple):
    """One call of a head: its images, its targets, and the weights of the samples.

    images: positions in `PreparedBatch.images`.
    targets: pairs (target, share). share: (B,), weight of each sample; None if all weights are 1.
    There is one pair, or two in a mixed view: (own label, share w) and (label of the partner,
    share 1 - w).
    unfollowed: (B,), 1 for a labeled sample whose label can't be moved to this view, 0 for others.
    None if all labels can be moved.
    """

    images: tuple[int, ...]
    targets: tuple[tuple[Target, Tensor | None], ...]
    unfollowed: Tensor | None = None

    @property
    def share(self) -> Tensor | None:
        """(B,), weight of each sample summed over its targets. None if all weights are 1."""
        shares = [share for _, share in self.targets if share is not None]
        return torch.stack(shares).sum(0) if shares else None


@frozen(eq=False)
class PreparedBatch:
    """Everything that one forward needs. It can be prefetched, moved, sliced, saved and replayed.

    images: DISTINCT images, float in [0, 1]. Each is encoded once.
    head_inputs: label -> the calls of its head, one per view for supervised heads.
    scale: label -> factor from the sum over samples to the loss of this micro-batch, in units of
    the step's mean.
    clean: only for `statistics = "clean"`: (position in `images`, labeled samples) of each clean
    view.
    visible: position in `images` -> the parts that are encoded, for views with hidden parts.
    labeled: task -> (B,) bool, which samples have a label. Only for steps of several micro-batches.

    It is not a pytree, on purpose: Fabric casts every float in a forward's arguments to bf16, which
    would include the targets.
    """

    images: tuple[Tensor, ...]
    head_inputs: dict[str, tuple[HeadInput, ...]]
    scale: dict[str, float]
    clean: tuple[tuple[int, int], ...] = ()
    visible: dict[int, Visible] = field(factory=dict)
    labeled: dict[str, Tensor] = field(factory=dict)

    @property
    def encoded(self) -> float:
        """The number of images to encode. One with hidden parts counts by its visible share."""
        shares = {at: visible.share for at, visible in self.visible.items()}
        return sum(len(images) * shares.get(at, 1) for at, images in enumerate(self.images))

    def unfollowed(self) -> dict[str, Tensor]:
        """Return task -> (), the fraction of labeled samples whose label can't be moved to a view.

        It is the number of these samples, averaged over views, times `scale`. The mean over the
        micro-batches of the step is their fraction. Tasks whose labels can always be moved are left
        out.
        """
        found: dict[str, Tensor] = {}
        for label, head_inputs in self.head_inputs.items():
            views = [x.unfollowed.sum() for x in head_inputs if x.unfollowed is not None]
            if views:
                found[label] = torch.stack(views).sum() / len(head_inputs) * self.scale[label]
        return found

    def map(self, fn: Callable[[Tensor], Tensor]) -> PreparedBatch:
        """Return a copy with `fn` applied to every tensor."""

        def apply(leaf: object) -> object:
            return fn(leaf) if isinstance(leaf, Tensor) else leaf

        everything = self.images, self.head_inputs, self.labeled
        images, head_inputs, labeled = tree_map(apply, everything)
        visible = {at: of_view.map(fn) for at, of_view in self.visible.items()}
        return evolve(
            self, images=images, head_inputs=head_inputs, visible=visible, labeled=labeled
        )

    def cut(self, samples: slice, scale: float = 1.0) -> PreparedBatch:
        """Return a slice of the samples: the share of one rank or micro-batch.

        All images must have the same B. scale: factor for every entry of `scale`.
        """
        scales = {label: value * scale for label, value in self.scale.items()}
        return evolve(self.map(lambda x: x[samples]), scale=scales, clean=())
