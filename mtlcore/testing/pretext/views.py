"""Checks of a pretext's views: shapes, ranges, random draws, and the independence of samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ...augment.levels import Validation, Weak
from ...contracts import AugmentedBatch, View
from ..generators import require_no_global_draws
from ..kit import Group
from ..requirements import Skip, require, require_finite, require_unit_range
from ..subject import Drawn, patterns
from ..trees import cut, equal, floats, tensors
from .harness import ChannelsLast, PretextBatch, PretextSubject, raw

STILL = Validation()  # draws nothing

# Names that many checks need.
VIEWS = "views_are_images"
TARGETS = "targets_hold_one_entry_per_sample"
NO_GLOBAL_DRAWS = "leaves_global_generators_alone"
REPEATABLE = "same_seed_same_views"
OWN_VIEWS = "views_of_a_sample_depend_on_it_alone"

VIEWS_CHECKS = Group()


@VIEWS_CHECKS.check(
    "views",
    why="the encoder reads batches of RGB floats. Another shape stops the run or trains garbage.",
    mend="Return View objects made from augmented.clean or augmented.augment(), with float32 "
    "images (B, 3, H, W).",
    needs="builds_from_its_name",
    core=True,
)
def views_are_images(subject: PretextSubject, drawn: Drawn) -> None:
    """There is at least one View, each with float32 images (B, 3, H, W) on the batch's device."""
    batch = subject.batch(drawn)
    require(bool(batch.views), "it returns no view")
    clean = batch.augmented.clean.images
    for i, view in enumerate(batch.views):
        require(isinstance(view, View), f"view {i} is a {type(view).__name__}")
        x = view.images
        right_shape = x.ndim == 4 and x.shape[:2] == (drawn.samples, 3)
        right_type = x.dtype == clean.dtype and x.device == clean.device
        require(
            right_shape and right_type,
            f"view {i} is {tuple(x.shape)}, {x.dtype}, {x.device}; "
            f"expected ({drawn.samples}, 3, H, W), {clean.dtype}, {clean.device}",
        )


@VIEWS_CHECKS.check(
    "views",
    why="targets are cut and permuted along their samples. A leaf without samples goes wrong.",
    mend="Make each leaf of the target a tensor (B, ...). Store settings in the head. Return None "
    "if there is no target.",
    needs=VIEWS,
    core=True,
)
def targets_hold_one_entry_per_sample(subject: PretextSubject, drawn: Drawn) -> None:
    """The target is None, or tensors (B, ...) in tuples, lists and dicts."""
    target = subject.batch(drawn).target
    if target is None:
        return
    for leaf in tree_leaves(target):
        require(isinstance(leaf, Tensor), f"a leaf of the target is a {type(leaf).__name__}")
        matches = leaf.ndim > 0 and len(leaf) == drawn.samples
        require(matches, f"a leaf is {tuple(leaf.shape)} for {drawn.samples} samples")


@VIEWS_CHECKS.check(
    "views",
    why="draws from a global generator depend on other code. Paired and resumed runs then differ.",
    mend="Draw from the rng that views() receives: rng.rand, rng.randint, rng.permutations, "
    "rng.randn, rng.integer.",
    needs=TARGETS,
    core=True,
)
def leaves_global_generators_alone(subject: PretextSubject, drawn: Drawn) -> None:
    """views() neither draws from nor seeds the global generators of torch, numpy and Python."""
    augmented = subject.augmented(raw(drawn), drawn.size, drawn.keyed_rng())
    require_no_global_draws(lambda: subject.component.views(augmented, drawn.rng()), "views()")


@VIEWS_CHECKS.check(
    "views",
    why="a run must be repeatable, and paired arms of an experiment must see the same views.",
    mend="Let views() depend on its arguments only: no counters, no clock, no state between calls.",
    needs=NO_GLOBAL_DRAWS,
    core=True,
)
def same_seed_same_views(subject: PretextSubject, drawn: Drawn) -> None:
    """Two calls with the same images and seed give bit-equal views and targets."""
    one, two = subject.batch(drawn), subject.batch(drawn)
    require(equal(one.images, two.images), "the views differ")
    require(equal(one.target, two.target), "the targets differ")


@VIEWS_CHECKS.check(
    "randomness",
    why="with the same views at every step, the model memorizes the targets.",
    mend="Draw from the rng that views() receives. Do not create or seed another generator.",
    needs=REPEATABLE,
    core=True,
)
def another_seed_gives_other_views(subject: PretextSubject) -> None:
    """If anything is drawn, another seed changes the view or the target of the same image."""
    images = patterns(1, 40, 0).expand(4, -1, -1, -1).contiguous()
    batches = [
        subject.batch(Drawn(4, 32, 0), images=images, augmentation=STILL, seed=seed)
        for seed in range(8)
    ]
    draws = any(batch.drew for batch in batches) or _samples_differ(batches[0])
    if not draws:
        raise Skip("it draws nothing: its views are a function of the image")
    results = [(batch.images, batch.target) for batch in batches]
    alike = all(equal(result, results[0]) for result in results)
    require(not alike, "eight seeds give the same views and targets")


@VIEWS_CHECKS.check(
    "views",
    why="all heads of a step read the clean view. Edited in place, it harms the supervised heads.",
    mend="Never write into augmented.clean.images: use masked_fill instead of masked_fill_, and "
    "clone() before indexed writes.",
    needs=REPEATABLE,
    core=True,
)
def leaves_the_batch_unchanged(subject: PretextSubject, drawn: Drawn) -> None:
    """views() changes neither the raw images nor any view that the batch handed out."""
    images = raw(drawn)
    augmented = _RecordingBatch(subject.augmented(images, drawn.size, drawn.keyed_rng()))
    subject.component.views(augmented, drawn.rng())

    # Views are created on request, so a fresh batch shows what they should still hold.
    fresh = subject.augmented(raw(drawn), drawn.size, drawn.keyed_rng())
    require(equal(images, raw(drawn)), "the raw images were changed in place")
    clean_is_same = equal(_content(augmented.clean), _content(fresh.clean))
    require(clean_is_same, "augmented.clean was changed in place")
    for (number, augmentation), view in augmented.requested.items():
        is_same = equal(_content(view), _content(fresh.augment(number, augmentation)))
        require(is_same, f"augmented.augment({number}, {augmentation!r}) was changed in place")


@VIEWS_CHECKS.check(
    "views",
    why="the encoder's normalization expects [0, 1]. Other ranges shift BatchNorm for all heads.",
    mend="Clamp what you paint: images.clamp(0, 1).",
    needs=REPEATABLE,
)
def values_stay_in_range(subject: PretextSubject, drawn: Drawn) -> None:
    """Every pixel of every view is finite and in [0, 1]."""
    for i, images in enumerate(subject.batch(drawn).images):
        require_finite(images, f"view {i}")
        require_unit_range(images, f"view {i}")


@VIEWS_CHECKS.check(
    "views",
    why="augmentations and encoders may use the faster channels_last. Such a run would stop.",
    mend="Use reshape, flatten or einops on images instead of view().",
    needs=REPEATABLE,
)
def accepts_channels_last(subject: PretextSubject, drawn: Drawn) -> None:
    """Images in channels_last give the same views and targets."""
    plain = subject.batch(drawn, augmentation=Weak())
    last = subject.batch(drawn, augmentation=ChannelsLast(Weak()))
    for i, (a, b) in enumerate(zip(plain.images, last.images)):
        difference = float((a - b).abs().max())
        require(difference < 1e-5, f"view {i} differs by {difference:.3g}")
    require(_close(plain.target, last.target), "the targets differ")


@VIEWS_CHECKS.check(
    "batch",
    why="otherwise a sample's views depend on the rest of its batch, and runs cannot be paired.",
    mend="Let sample i of each view and target depend on sample i of the images and the draws.",
    needs=REPEATABLE,
    capability="independent_samples",
)
def views_of_a_sample_depend_on_it_alone(subject: PretextSubject, drawn: Drawn) -> None:
    """Another image as the last sample does not change the others' views and targets."""
    one, two = with_another_last_sample(subject, drawn)
    others = slice(-1)
    require(equal(cut(one.images, others), cut(two.images, others)), "views of others change")
    require(equal(cut(one.target, others), cut(two.target, others)), "targets of others change")


# ---------------------------------------------------------------------------------------- helpers


def with_another_last_sample(
    subject: PretextSubject, drawn: Drawn
) -> tuple[PretextBatch, PretextBatch]:
    """The same batch twice, the second time with another image as its last sample."""
    images = raw(drawn)
    changed = images.clone()
    changed[-1:] = patterns(1, images.shape[-1], drawn.seed + 1)
    return subject.batch(drawn, images=images), subject.batch(drawn, images=changed)


class _RecordingBatch:
    """An augmented batch that records the requested views by (number, augmentation)."""

    def __init__(self, augmented: AugmentedBatch) -> None:
        self.augmented = augmented
        self.requested: dict[tuple[int, str | None], View] = {}

    @property
    def clean(self) -> View:
        return self.augmented.clean

    @property
    def progress(self) -> float:
        return self.augmented.progress

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        view = self.augmented.augment(number, augmentation)
        return self.requested.setdefault((number, augmentation), view)


def _content(view: View) -> object:
    """All tensors of a view that code could write into."""
    mixed = None
    if view.mixed is not None:
        mixed = view.mixed.partner, view.mixed.share, view.mixed.region
    return view.images, mixed, view.geometry and view.geometry.matrix


def _samples_differ(batch: PretextBatch) -> bool:
    for x in tensors((batch.images, batch.target)):
        if not torch.equal(x[:1].expand_as(x), x):
            return True
    return False


def _close(a: object, b: object) -> bool:
    """True if floats agree up to rounding and all other leaves are equal."""
    for x, y in zip(floats(a), floats(b)):
        if x.shape != y.shape or not torch.allclose(x, y, atol=1e-5):
            return False
    return equal(tree_map(_without_floats, a), tree_map(_without_floats, b))


def _without_floats(leaf: object) -> object:
    return None if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
