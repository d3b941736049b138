"""From a batch to what the network reads. All randomness but dropout ends here: `HybridModel` draws nothing.

Batch -> the clean view(s) -> each pretext's views -> which views the supervised heads read -> `PreparedBatch`: the DISTINCT images to
encode, and for each label which of them its head reads and what it must answer. Every view is drawn for the WHOLE micro-batch
under its own name and sliced afterwards, so nobody's draws depend on who else is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import evolve
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..config.experiment import Experiment, PretextEntry, TaskEntry
from ..contracts import Batch, HeadInput, PreparedBatch, Target, View
from ..errors import MtlError
from ..rng import AUGMENT, CONTROL, FINISH, KeyedRng, Rng

Samples = Literal["all", "labeled", "unlabeled"]


class _AugmentedBatch:
    """A batch to look at (`contracts.AugmentedBatch`): each augmentation is drawn when first asked for."""

    def __init__(
        self,
        experiment: Experiment,
        images: Tensor,
        keyed_rng: KeyedRng,
        progress: float,
        clean: str | None,
    ) -> None:
        self.experiment, self.images, self.keyed_rng, self.progress = (
            experiment,
            images,
            keyed_rng,
            progress,
        )
        self._clean = clean
        self._views: dict[tuple[str | int | None, ...], View] = {}

    @property
    def clean(self) -> View:
        return self.augment(0, self._clean)

    def augment(self, number: int = 1, augmentation: str | None = None) -> View:
        name = (AUGMENT, number, augmentation)
        if name not in self._views:
            size = (self.experiment.input.size,) * 2
            view = self.experiment.augmentation(augmentation).view(
                self.images, size, self.keyed_rng(*name)
            )
            self._views[name] = evolve(view, augmentation=augmentation)
        return self._views[name]

    def name(self, view: View) -> tuple[str | int | None, ...] | None:
        """The name of a view handed out as it is; None of one that a pretext has changed."""
        return next((name for name, v in self._views.items() if v.images is view.images), None)

    def finish(self, view: View, name: tuple[str | int | None, ...]) -> Tensor:
        return self.experiment.augmentation(view.augmentation).finish(
            view.images, self.keyed_rng(FINISH, *name)
        )


class _Table:
    """The distinct images of a micro-batch in order of first use, and which samples of each are encoded.

    Images are told apart by their identity: the entries keep every view alive, so no identity is used twice.
    """

    def __init__(self, augmented: _AugmentedBatch, labeled_samples: int) -> None:
        self.augmented, self.labeled = augmented, labeled_samples
        self.entries: dict[tuple[int, Samples], tuple[View, tuple[str | int | None, ...]]] = {}
        self.slices: dict[Samples, slice] = {
            "all": slice(None),
            "labeled": slice(labeled_samples),
            "unlabeled": slice(labeled_samples, None),
        }

    def add(self, views: Sequence[View], samples: Samples, label: str = "") -> tuple[int, ...]:
        for i, view in enumerate(views):
            self.entries.setdefault(
                (id(view.images), samples), (view, self.augmented.name(view) or (label, i))
            )
        return tuple(self.position(view, samples) for view in views)

    def position(self, view: View, samples: Samples) -> int:
        return list(self.entries).index((id(view.images), samples))

    def holds(self, view: View, samples: Samples) -> bool:
        return (id(view.images), samples) in self.entries

    def cut(self, tree: Target, samples: Samples) -> Target:
        return (
            tree
            if samples == "all" or tree is None
            else tree_map(lambda x: x[self.slices[samples]], tree)
        )

    def images(self) -> tuple[Tensor, ...]:
        return tuple(
            self.cut(self.augmented.finish(v, name), samples)
            for (_, samples), (v, name) in self.entries.items()
        )

    def clean_samples(self) -> tuple[tuple[int, int], ...]:
        """Where the clean views stand, and how many of their samples are labeled: what `statistics = "clean"` parts."""
        clean = [self.augmented.augment(n) for n in range(self.augmented.experiment.views.clean)]
        found: list[tuple[View, Samples]] = [
            (v, r) for v in clean for r in ("labeled", "all") if self.holds(v, r)
        ]
        if not found or not self.labeled:
            raise MtlError(
                'views.statistics = "clean" needs labeled samples of the clean view, and no head reads any: '
                'set views.supervised = "clean" or "both"'
            )
        return tuple((self.position(view, samples), self.labeled) for view, samples in found)


def prepare(
    experiment: Experiment,
    batch: Batch,
    keyed_rng: KeyedRng,
    *,
    micro_batches: int = 1,
    world: int = 1,
    progress: float = 0.0,
    clean: str | None = None,
) -> PreparedBatch:
    """Augment once, let every pretext make its views, decide which views the supervised heads read.

    micro_batches, world: micro-batches a step and ranks; the losses of all of them add up to the step's mean. clean: the augmentation of
    the clean view (default: the run's; evaluation has its own).
    """
    augmented = _AugmentedBatch(experiment, batch.images, keyed_rng, progress, clean)
    table = _Table(augmented, batch.labeled_samples)
    head_inputs: dict[str, tuple[HeadInput, ...]] = {}
    readable: dict[int, View] = {}
    counted: dict[str, int] = {}
    for label, entry in experiment.pretexts.items():
        n = batch.counts.samples if entry.samples == "all" else batch.counts.unlabeled_samples
        if n:
            views, head_input = _question(label, entry, augmented, table)
            if entry.supervised and entry.samples == "all":
                readable |= {id(v.images): v for v in views if v.geometry is not None}
            if head_input is not None:
                head_inputs[label], counted[label] = (head_input,), n
    tasks = {label: e for label, e in experiment.tasks.items() if batch.counts.labeled[label]}
    for view, samples in _supervised(experiment, augmented, readable, table) if tasks else ():
        positions = table.add([view], samples)
        for label, task in tasks.items():
            head_input = HeadInput(
                positions, table.cut(_answers(task, label, batch, view), samples)
            )
            head_inputs[label] = (*head_inputs.get(label, ()), head_input)
    counted |= {label: batch.counts.labeled[label] for label in tasks}
    head_inputs = {
        label: head_inputs[label] for label in experiment.entries if label in head_inputs
    }
    if experiment.weighting.at == "features":
        _same_images(head_inputs)
    return PreparedBatch(
        table.images(),
        head_inputs,
        {label: micro_batches * world / n for label, n in counted.items()},
        table.clean_samples() if experiment.views.statistics == "clean" and tasks else (),
    )


def _question(
    label: str, entry: PretextEntry, augmented: _AugmentedBatch, table: _Table
) -> tuple[Sequence[View], HeadInput | None]:
    """A pretext's views, and how its head reads them; None for an arm whose views are encoded but judged by nobody."""
    views, target = entry.component.views(augmented, augmented.keyed_rng(label))
    _check(label, views, target, len(augmented.images))
    positions = table.add(views, entry.samples, label)
    if entry.control == "views_only":
        return views, None
    if entry.control == "random_target":
        target = _random(
            label, entry, target, augmented.keyed_rng(label, CONTROL), len(augmented.images)
        )
    return views, HeadInput(positions, ((table.cut(target, entry.samples), None),))


def _check(label: str, views: Sequence[View], target: Target, samples: int) -> None:
    """Shapes are host facts: looking at them costs no sync."""
    for what, leaf in [
        *(("a view", v.images) for v in views),
        *(("a target", x) for x in tree_leaves(target)),
    ]:
        if isinstance(leaf, Tensor) and (not leaf.ndim or len(leaf) != samples):
            raise MtlError(
                f"pretext {label!r}: {what} has the shape {tuple(leaf.shape)}; expected {samples} samples first"
            )


def _supervised(
    experiment: Experiment, augmented: _AugmentedBatch, readable: dict[int, View], table: _Table
) -> list[tuple[View, Samples]]:
    """The views that supervised heads read, and which samples of each; all head_inputs of a task have the same samples.

    Samples without labels are not encoded in a clean view that only tasks read.
    """
    policy, clean = (
        experiment.views.supervised,
        [augmented.augment(n) for n in range(experiment.views.clean)],
    )
    views = [] if policy == "clean" else list(readable.values())
    if policy == "pretext" and not views:
        raise MtlError(
            'views.supervised = "pretext", and no pretext makes a whole image of every sample that supervised heads could '
            'read: set views.supervised = "clean" or "both"'
        )
    if policy == "pretext":
        return [(view, "all") for view in views]
    everyone = (
        bool(views)
        or any(table.holds(v, "all") for v in clean)
        or table.labeled == len(augmented.images)
    )
    others = [v for v in views if all(v.images is not c.images for c in clean)]
    return [*((v, "all") for v in others), *((v, "all" if everyone else "labeled") for v in clean)]


def _answers(
    entry: TaskEntry, label: str, batch: Batch, view: View
) -> tuple[tuple[Target, Tensor], ...]:
    geometry = view.geometry
    assert geometry is not None, "supervised heads read whole images only"
    target, share = (
        entry.component.move(batch.targets[label], geometry),
        batch.present[label].float(),
    )
    if view.mix is None:
        return ((target, share),)
    partner, own = view.mix
    return (target, share * own), (target[partner], share[partner] * (1 - own))


def _random(label: str, entry: PretextEntry, target: Target, rng: Rng, samples: int) -> Target:
    if target is None:
        raise MtlError(
            f'[pretext.{label}] control = "random_target": its views are its target, there is none to permute; '
            'use "views_only"'
        )
    return entry.component.permute(target, rng.permutations(1, samples)[0])


def _same_images(head_inputs: dict[str, tuple[HeadInput, ...]]) -> None:
    read = {label: [r.images for r in rs] for label, rs in head_inputs.items()}
    first = next(iter(read), "")
    for label in read:
        if read[label] != read[first]:
            raise MtlError(
                f'weighting.at = "features" needs all heads to read the same images; {first} reads {read[first]}, '
                f"{label} reads {read[label]}: gradients at different images have products of exactly 0. "
                'Set weighting.at = "parameters"'
            )
