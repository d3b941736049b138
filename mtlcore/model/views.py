"""From a batch to the inputs of the network: which images are encoded, and what each head receives.

Batch -> clean views -> views of each pretext -> views for supervised heads -> `PreparedBatch`. It
holds the DISTINCT images to encode, and for each label the images and targets of its head.

All randomness except dropout ends here: `HybridModel` draws nothing. Each view is drawn for the
WHOLE micro-batch, under its own name, and sliced afterwards. So the draws of a view depend neither
on the other views nor on which samples are labeled.

Shapes: B samples of the micro-batch, (H0, W0) pixels of raw images, (H, W) pixels of views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from attrs import evolve, frozen
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..config.experiment import PretextEntry
from ..contracts import AugmentedBatch, Batch, HeadInput, PreparedBatch, Target, View, Visible
from ..errors import MtlError
from ..rng import AUGMENT, CONTROL, FINISH, KeyedRng, Rng
from .moved_targets import moved_targets
from .plan import ViewPlan

Samples = Literal["all", "labeled", "unlabeled"]
"""The samples of a view that are encoded."""

DrawName = tuple[str | int | None, ...]
"""The purpose under which a view is drawn. It is a part of the seed."""

HeadInputs = dict[str, tuple[HeadInput, ...]]

_Content = tuple[int, int]
"""What distinguishes two views: the ids of their images and of their visible parts."""


def _content(view: View) -> _Content:
    return id(view.images), id(view.visible)


class _AugmentedBatch:
    """A batch with its augmentations (`contracts.AugmentedBatch`). Each is drawn on first use."""

    def __init__(
        self, plan: ViewPlan, images: Tensor, keyed_rng: KeyedRng, progress: float
    ) -> None:
        self.plan = plan
        self.images = images
        self.keyed_rng = keyed_rng
        self.progress = progress
        self._views: dict[DrawName, View] = {}

    @property
    def clean(self) -> View:
        return self.augment(0, self.plan.clean)

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        # The name is the seed: the draw does not depend on who requests the view first.
        name = (AUGMENT, number, augmentation)
        if name not in self._views:
            component = self.plan.augmentation(augmentation)
            view = component.view(self.images, self.plan.size, self.keyed_rng(*name))
            if view.mixed is not None and not component.mixes:
                raise MtlError(
                    f"augmentation {type(component).__name__}: its view mixes samples, but its "
                    "class does not declare it: set `mixes = True` on the class"
                )
            self._views[name] = evolve(view, augmentation=augmentation)
        return self._views[name]

    def clean_views(self) -> list[View]:
        """Return the clean views of supervised heads. There are `views.clean` of them."""
        return [self.augment(number) for number in range(self.plan.views.clean)]

    def name(self, view: View) -> DrawName | None:
        """Return the name of one of these views, or None for a view that a pretext changed."""
        for name, known in self._views.items():
            if known.images is view.images:
                return name
        return None

    def finish(self, view: View, name: DrawName) -> Tensor:
        """Return the images of a view after the last step of its augmentation."""
        component = self.plan.augmentation(view.augmentation)
        return component.finish(view.images, self.keyed_rng(FINISH, *name))


@frozen
class _UnmixedBatch:
    """The augmented batch of a pretext that can't read mixed views: it raises MtlError for them."""

    label: str
    augmented: _AugmentedBatch

    @property
    def clean(self) -> View:
        return self._unmixed(self.augmented.clean)

    @property
    def progress(self) -> float:
        return self.augmented.progress

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        return self._unmixed(self.augmented.augment(number, augmentation))

    def _unmixed(self, view: View) -> View:
        if view.mixed is None:
            return view
        name = "[augment]" if view.augmentation is None else f"[augment.{view.augmentation}]"
        raise MtlError(
            f"pretext.{self.label} can't read images of {name}, which mixes samples (mixup, "
            "cutmix): remove the pretext, or the operation that mixes"
        )


class _EncodedViews:
    """The distinct views to encode, in order of first use, and which samples of each.

    Views are distinguished by the identity of their image tensor, and of their visible parts. The
    entries keep these alive, so an id never occurs twice.
    """

    def __init__(self, augmented: _AugmentedBatch, labeled_samples: int) -> None:
        self.augmented = augmented
        self.labeled = labeled_samples
        self.entries: dict[tuple[_Content, Samples], tuple[View, DrawName]] = {}
        # Slices and not masks: they are views of the same memory, and need no host sync.
        self.slices: dict[Samples, slice] = {
            "all": slice(None),
            "labeled": slice(labeled_samples),
            "unlabeled": slice(labeled_samples, None),
        }

    def add(self, views: Sequence[View], samples: Samples, label: str = "") -> tuple[int, ...]:
        """Add views, and return their positions among all entries.

        label: the pretext that made them. A changed view is drawn under this label.
        """
        for i, view in enumerate(views):
            name = self.augmented.name(view) or (label, i)
            self.entries.setdefault((_content(view), samples), (view, name))
        return tuple(self.position(view, samples) for view in views)

    def position(self, view: View, samples: Samples) -> int:
        return list(self.entries).index((_content(view), samples))

    def holds(self, view: View, samples: Samples) -> bool:
        return (_content(view), samples) in self.entries

    def cut(self, tree: Target, samples: Samples) -> Target:
        """Return these samples of each tensor of a pytree."""
        if samples == "all" or tree is None:
            return tree
        return tree_map(lambda x: x[self.slices[samples]], tree)

    def images(self) -> tuple[Tensor, ...]:
        """Return the images to encode, each (B or fewer samples, 3, H, W)."""
        images = []
        for (_, samples), (view, name) in self.entries.items():
            finished = self.augmented.finish(view, name)
            images.append(self.cut(finished, samples))
        return tuple(images)

    def visible(self) -> dict[int, Visible]:
        """Return position -> the parts to encode, for views with hidden parts."""
        found: dict[int, Visible] = {}
        for at, ((_, samples), (view, _)) in enumerate(self.entries.items()):
            if view.visible is not None:
                found[at] = view.visible.map(partial(self.cut, samples=samples))
        return found

    def clean_samples(self) -> tuple[tuple[int, int], ...]:
        """Return (position, labeled samples) of each clean view, for `statistics = "clean"`.

        Raises MtlError if no head receives labeled samples of a clean view.
        """
        either: tuple[Samples, ...] = ("labeled", "all")
        found: list[int] = []
        for view in self.augmented.clean_views():
            for samples in either:
                if self.holds(view, samples):
                    found.append(self.position(view, samples))
        if not found or not self.labeled:
            raise MtlError(
                'views.statistics = "clean": no head reads labeled samples of a clean view: '
                'set views.supervised = "clean" or "both"'
            )
        return tuple((position, self.labeled) for position in found)


def augment(
    plan: ViewPlan, images: Tensor, keyed_rng: KeyedRng, progress: float = 0.0
) -> AugmentedBatch:
    """Return the augmented batch that pretexts receive. images: (B, 3, H0, W0) uint8."""
    return _AugmentedBatch(plan, images, keyed_rng, progress)


def prepare(
    plan: ViewPlan, batch: Batch, keyed_rng: KeyedRng, progress: float = 0.0
) -> PreparedBatch:
    """Prepare one micro-batch for `HybridModel`. The same arguments give the same result.

    keyed_rng: the generators of this micro-batch.
    progress: completed share of the run, in [0, 1).
    """
    augmented = _AugmentedBatch(plan, batch.images, keyed_rng, progress)
    encoded = _EncodedViews(augmented, batch.labeled_samples)

    # Pretexts come first, since supervised heads can read their views.
    pretexts, readable = _pretext_inputs(plan, batch, augmented, encoded)
    tasks = _supervised_inputs(plan, batch, augmented, encoded, readable)

    # In the order of the plan (tasks, then pretexts), so that losses always have this order.
    unordered = pretexts | tasks
    labels = plan.labels(batch.counts)
    head_inputs = {label: unordered[label] for label in labels}
    # Factors from sums over samples to the loss of this micro-batch. The step averages the losses
    # of its micro-batches, so each factor contains their number.
    scale = {label: plan.micro_batches / plan.samples(label, batch.counts) for label in labels}
    if plan.same_images:
        _require_same_images(head_inputs)

    images = encoded.images()
    clean_samples: tuple[tuple[int, int], ...] = ()
    if plan.views.statistics == "clean" and tasks:
        clean_samples = encoded.clean_samples()
    labeled = {label: batch.present[label] for label in tasks} if plan.micro_batches > 1 else {}
    return PreparedBatch(images, head_inputs, scale, clean_samples, encoded.visible(), labeled)


def _pretext_inputs(
    plan: ViewPlan, batch: Batch, augmented: _AugmentedBatch, encoded: _EncodedViews
) -> tuple[HeadInputs, list[View]]:
    """Return the inputs of the pretext heads, and the views that supervised heads can read.

    A pretext without samples in this step is left out. So is the head input of the control
    "views_only": its views are encoded, but no loss is computed.
    """
    head_inputs: HeadInputs = {}
    readable: dict[_Content, View] = {}
    for label, entry in plan.pretexts.items():
        if not plan.samples(label, batch.counts):
            continue
        views, head_input = _pretext_input(label, entry, augmented, encoded)
        if head_input is not None:
            head_inputs[label] = (head_input,)

        # Two pretexts may share a view, so views are collected by their content.
        if entry.supervised and entry.samples == "all":
            readable |= {_content(view): view for view in views if view.geometry is not None}
    return head_inputs, list(readable.values())


def _pretext_input(
    label: str, entry: PretextEntry, augmented: _AugmentedBatch, encoded: _EncodedViews
) -> tuple[Sequence[View], HeadInput | None]:
    """Return the views of one pretext, and the input of its head (None for "views_only")."""
    samples = len(augmented.images)
    reads_mixed = entry.component.reads_mixed
    batch: AugmentedBatch = augmented if reads_mixed else _UnmixedBatch(label, augmented)
    try:
        views, target = entry.component.views(batch, augmented.keyed_rng(label))
        _check_samples(label, views, target, samples)
        positions = encoded.add(views, entry.samples, label)
    except (TypeError, ValueError, AttributeError) as error:
        # A plugin may be wrong: the dry run on two samples shows this note.
        error.add_note(
            f"`views` of pretext {label!r} must return (views, target), where views is a list of "
            "View: View.repaint takes images, View.rearrange takes a function"
        )
        raise

    if entry.control == "views_only":
        return views, None
    if entry.control == "random_target":
        target = _permuted(label, entry, target, augmented.keyed_rng(label, CONTROL), samples)
    return views, HeadInput(positions, ((encoded.cut(target, entry.samples), None),))


def _check_samples(label: str, views: Sequence[View], target: Target, samples: int) -> None:
    """Raise MtlError if a view or a target has another number of samples.

    Shapes are known to the host, so this causes no sync.
    """
    named: list[tuple[str, object]] = [("a view", view.images) for view in views]
    for view in views:
        if view.visible is not None:
            named.append(("the visible parts of a view", view.visible.parts))
    named += [("a target", leaf) for leaf in tree_leaves(target)]
    for what, leaf in named:
        if isinstance(leaf, Tensor) and (not leaf.ndim or len(leaf) != samples):
            raise MtlError(
                f"pretext {label!r}: {what} has the shape {tuple(leaf.shape)}; "
                f"expected {samples} samples in its first dimension"
            )


class NoTargetError(MtlError):
    """The control "random_target" of a pretext without a target that could be permuted."""


def _permuted(label: str, entry: PretextEntry, target: Target, rng: Rng, samples: int) -> Target:
    """Return the targets of other samples, for the control "random_target"."""
    if target is None:
        raise NoTargetError(
            f'pretext.{label}.control = "random_target": this pretext compares its views and has '
            'no target to permute: set control = "views_only"'
        )
    return entry.component.permute(target, rng.permutations(1, samples)[0])


def _supervised_inputs(
    plan: ViewPlan,
    batch: Batch,
    augmented: _AugmentedBatch,
    encoded: _EncodedViews,
    readable: Sequence[View],
) -> HeadInputs:
    """Return the inputs of the supervised heads: one for each view that they read."""
    labeled = batch.counts.labeled
    tasks = {label: task for label, task in plan.tasks.items() if labeled[label]}
    if not tasks:
        return {}

    head_inputs: HeadInputs = dict.fromkeys(tasks, ())
    for view, samples in _supervised_views(plan, augmented, encoded, readable):
        positions = encoded.add([view], samples)
        for label, task in tasks.items():
            targets, unfollowed = moved_targets(task, label, batch, view)
            cut = encoded.cut(targets, samples)
            head_inputs[label] += (HeadInput(positions, cut, encoded.cut(unfollowed, samples)),)
    return head_inputs


def _supervised_views(
    plan: ViewPlan,
    augmented: _AugmentedBatch,
    encoded: _EncodedViews,
    readable: Sequence[View],
) -> list[tuple[View, Samples]]:
    """Return the views that supervised heads read, and which samples of each.

    All views of a step have the same samples. If only supervised heads read a clean view, its
    unlabeled samples are not encoded.

    readable: views of pretexts that supervised heads can read.
    """
    policy = plan.views.supervised
    clean = augmented.clean_views()
    if policy == "pretext":
        if not readable:
            raise MtlError(
                'views.supervised = "pretext": no pretext makes a view that supervised heads can '
                "read, with the whole image of every sample: "
                'set views.supervised = "clean" or "both"'
            )
        return [(view, "all") for view in readable]

    pretext_views = [] if policy == "clean" else readable
    # Unlabeled samples cost compute, so they are encoded only if another head needs them, if the
    # heads also read views of pretexts, which have all samples, or if labeled samples may be mixed
    # into them.
    every_sample = (
        bool(pretext_views)
        or any(view.mixed is not None for view in clean)
        or any(encoded.holds(view, "all") for view in clean)
        or encoded.labeled == len(augmented.images)
    )
    samples: Samples = "all" if every_sample else "labeled"

    # A pretext may return a clean view as it is: the view is listed once.
    shown = {_content(view) for view in clean}
    found: list[tuple[View, Samples]] = []
    found += [(view, "all") for view in pretext_views if _content(view) not in shown]
    found += [(view, samples) for view in clean]
    return found


def _require_same_images(head_inputs: Mapping[str, Sequence[HeadInput]]) -> None:
    """Raise MtlError if two heads read different images."""
    first = next(iter(head_inputs), "")
    for label in head_inputs:
        expected = [head_input.images for head_input in head_inputs[first]]
        found = [head_input.images for head_input in head_inputs[label]]
        if found != expected:
            raise MtlError(
                'weighting.at = "features" needs all heads to read the same images: '
                f"{first} reads {expected}, {label} reads {found}. Gradients at different "
                'images have products of exactly 0: set weighting.at = "parameters"'
            )
