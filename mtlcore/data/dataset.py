"""Open the data of a run, in three steps.

1. `index_data`: index the datasets, split their samples, join them.
2. `fit_experiment`: fit the tasks and find the cache size. The result is an Experiment in which
   everything that was learned from the data is explicit. A run saves it.
3. `read_images`: read the images of the opened splits, and the targets -> `RunData`.

`open_data` takes all three steps. Everything that is left out is counted and reported in
`RunData.report`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from attrs import evolve, frozen
from torch import Tensor

from ..config.checks import ALL_LABELED, NOT_KEPT, without_unlabeled_samples
from ..config.experiment import Experiment, TaskEntry
from ..contracts import Annotation, Categories
from ..contracts.texts import Texts
from ..errors import MtlError, nearest
from .aligned import LabelColumn
from .aligned_tasks import aligned_reads, faults, label_columns, label_names, with_annotations
from .cache import ImageCache, OnDemandImageCache, Progress, Unreadable, cache_size
from .fingerprint import fingerprint_of
from .indexed import open_dataset
from .joined import JoinedSamples, annotation_of
from .packs.cache import open_joined, size_probe
from .report import (
    lines_for_dropped,
    lines_for_skipped,
    lines_for_tasks_without_labels,
    lines_for_unknown_labels,
    refuse_too_many,
)
from .run_data import RunData as RunData
from .run_data import has_any_label
from .targets import fit_task, targets_and_presence, tasks_without_labels


class OpenedData(NamedTuple):
    """An experiment with everything that was learned from its data, and the data."""

    experiment: Experiment
    data: RunData


@frozen(eq=False)
class IndexedData:
    """The samples of an experiment before any task is fitted, and before a run reads its images.

    samples: all samples of all datasets, with their splits.
    splits: the requested splits. None: all.
    report: one line for each task without labels in any dataset.
    """

    samples: JoinedSamples
    splits: tuple[str, ...] | None
    report: tuple[str, ...]


def open_data(
    experiment: Experiment,
    splits: Collection[str] | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
    lazy: bool = False,
) -> OpenedData:
    """Index the datasets, resolve the experiment, and read the images: all three steps.

    The arguments and errors are those of `index_data`, `fit_experiment` and `read_images`.
    """
    indexed = index_data(experiment, splits)
    resolved = fit_experiment(experiment, indexed)
    return OpenedData(resolved, read_images(resolved, indexed, progress, memory, lazy))


def index_data(experiment: Experiment, splits: Collection[str] | None = None) -> IndexedData:
    """Index the datasets of an experiment and split their samples. No image is decoded.

    Only `exclude_duplicates` decodes images here, since it compares them.

    splits: the splits to open (default: all). With "train", every task must have labels.

    Raises MtlError for a dataset that can't be indexed or has too many bad samples, a task
    without labels in any dataset, and an unknown column.
    """
    datasets = [open_dataset(experiment, label) for label in experiment.data]
    training = splits is None or "train" in splits
    report = tasks_without_labels(experiment.tasks, datasets, training)
    if training and experiment.tasks and not any(d.keeps_unlabeled for d in datasets):
        _refuse_unlabeled_settings(experiment, NOT_KEPT)
    requested = None if splits is None else tuple(splits)
    return IndexedData(JoinedSamples.join(datasets), requested, tuple(report))


def fit_experiment(experiment: Experiment, indexed: IndexedData) -> Experiment:
    """Return the experiment with fitted tasks and an explicit cache size.

    Without "train" among the splits, tasks without labels in the data are removed. Some images are
    decoded to find the cache size.

    Raises MtlError for a task that can't be fitted, and for a split without samples.
    """
    samples = indexed.samples
    known = label_names(samples.datasets)
    aligned = aligned_reads(experiment.tasks)
    tasks: dict[str, TaskEntry] = {}
    for label, entry in experiment.tasks.items():
        if entry.component.reads in known:
            tasks[label] = entry if label in aligned else fit_task(label, entry, samples)

    opened_splits = _splits_to_open(samples.split, indexed.splits)
    size = cache_size_of(samples, experiment, opened_splits)
    return evolve(experiment, tasks=tasks, input=evolve(experiment.input, cache_size=size))


def read_images(
    experiment: Experiment,
    indexed: IndexedData,
    progress: Progress | None = None,
    memory: int | None = None,
    lazy: bool = False,
) -> RunData:
    """Return the data of a resolved experiment: images, targets, and the samples of each split.

    Of the training samples only the share `labels` keeps its labels. The others are dropped, or
    stay as unlabeled samples. Every other split keeps all labels. Only the images of
    `indexed.splits` are read.

    experiment: as `fit_experiment` returns it.
    progress: called with the number of images that are read.
    memory: a limit in bytes. Images that need more are decoded on demand (default: half of the
        usable memory).
    lazy: read no image in advance, for callers that look at a few images only. Unreadable samples
        then stay in their splits, and taking one raises MtlError.

    Raises MtlError for a split without samples, for too many unreadable images, and if a setting
    needs unlabeled samples and every training sample has a label.
    """
    size = experiment.input.cache_size
    if size is None:
        raise MtlError("read_images: the experiment is not resolved: call `fit_experiment` first")
    everything, tasks = indexed.samples, experiment.tasks
    columns = label_columns(tasks, everything)
    targets, present = targets_and_presence(tasks, columns, everything)
    labeled = _labeled(everything, present)
    split = _drop_unlabeled(everything, labeled)

    opened_splits = _splits_to_open(split, indexed.splits)
    if tasks and "train" in opened_splits and labeled[split.isin("train")].all():
        _refuse_unlabeled_settings(experiment, ALL_LABELED)
    opened = np.flatnonzero(split.isin(*opened_splits))
    samples = evolve(everything.subset(opened), faults=faults(tasks))
    opened_columns = {name: column.subset(opened) for name, column in columns.items()}
    images, unreadable = _open_images(samples, size, progress, memory, lazy, opened_columns)

    # One task at a time, so that only one task's targets are in memory twice.
    opened_targets: dict[str, Tensor] = {}
    for label in tuple(targets):
        opened_targets[label] = targets.pop(label)[opened]

    data = RunData(
        images=images,
        targets=opened_targets,
        present={label: of_task[opened] for label, of_task in present.items()},
        dataset=samples.dataset,
        attributes=samples.attributes(),
        split=_indices(split[opened], opened_splits, unreadable),
        fingerprint=fingerprint_of(everything.datasets, size),
        keys=partial(_keys, samples),
        annotation=partial(_annotation, samples),
        aligned=aligned_reads(tasks),
    )
    report = [*indexed.report, *lines_for_skipped(samples, unreadable)]
    report += _report(tasks, everything, split, present, data)
    return evolve(data, report=tuple(report))


def _keys(samples: JoinedSamples, indices: np.ndarray) -> Texts:
    return samples.subset(indices).keys()


def _annotation(samples: JoinedSamples, name: str, indices: np.ndarray) -> Annotation:
    return annotation_of(name, samples.subset(indices))


def _report(
    tasks: Mapping[str, TaskEntry],
    samples: JoinedSamples,
    split: Categories,
    present: Mapping[str, Tensor],
    data: RunData,
) -> list[str]:
    """Return the lines about samples and labels that the run does not use.

    samples: all N samples. split: (N,) names. present: task label -> (N,) bool. data: the opened
    samples.
    """
    report = lines_for_dropped(split, samples, list(data.split))
    report += lines_for_unknown_labels(with_annotations(tasks), present, samples)
    report += lines_for_tasks_without_labels(data)
    return report


# ------------------------------------------------------------ images


def cache_size_of(
    everything: JoinedSamples,
    experiment: Experiment,
    opened_splits: Collection[str] = (),
) -> tuple[int, int]:
    """Return the size (h, w) of the image cache. Images of train and validation decide it.

    Test images have no influence, because a run must not learn anything from them. Train and
    validation count together, because the seed decides which samples validation is cut from; and
    whether samples keep their labels is ignored. So all variants of an experiment get the same
    size. If neither split has a sample (a dataset that is only evaluated on), the opened splits
    are used.
    """
    usable = everything.split.isin("train", "validation")
    if not usable.any():
        usable = everything.split.isin(*opened_splits)
    samples = everything.subset(np.flatnonzero(usable))
    settings = experiment.input
    return cache_size(
        size_probe(samples),
        len(samples),
        settings.size,
        settings.cache_size,
    )


def _open_images(
    samples: JoinedSamples,
    size: tuple[int, int],
    progress: Progress | None,
    memory: int | None,
    lazy: bool,
    columns: Mapping[str, LabelColumn],
) -> tuple[ImageCache, Unreadable]:
    if lazy:
        return OnDemandImageCache(samples.decoder(), size, columns), {}
    return open_joined(samples, size, progress, refuse_too_many, memory, columns)


# ------------------------------------------------------------ splits


def _refuse_unlabeled_settings(experiment: Experiment, why: str) -> None:
    """Raise MtlError if a setting needs unlabeled samples. why: why there is none."""
    for problem in without_unlabeled_samples(experiment, why):
        raise MtlError(problem)


def _labeled(samples: JoinedSamples, present: Mapping[str, Tensor]) -> np.ndarray:
    """Return which samples have a label of at least one task, (N,) bool.

    In a run without tasks, only samples that do not keep their labels count as unlabeled.
    """
    return has_any_label(present, len(samples)) if present else samples.labeled


def _drop_unlabeled(samples: JoinedSamples, labeled: np.ndarray) -> Categories:
    """Return the split names (N,) with "" for unlabeled training samples that are dropped.

    A dataset that keeps unlabeled samples drops none.
    """
    dataset_drops = np.array([not d.keeps_unlabeled for d in samples.datasets])
    may_drop = dataset_drops[samples.dataset]
    return samples.split.blank(samples.split.isin("train") & ~labeled & may_drop)


def _splits_to_open(split: Categories, requested: Collection[str] | None) -> list[str]:
    """Return the names of the splits to open, sorted.

    Raises MtlError for a split without samples, except for validation when train is opened too: a
    run may train without validation.
    """
    known = set(split.used()) - {""}
    names = known | {"train", "validation"} if requested is None else set(requested)
    for name in sorted(names):
        may_be_empty = name == "validation" and "train" in names
        if name not in known and not may_be_empty:
            raise MtlError(f"the data has no sample of the split {name!r}; {nearest(name, known)}")
    return sorted(names)


def _indices(
    split: Categories,
    names: Collection[str],
    unreadable: Unreadable,
) -> dict[str, np.ndarray]:
    """Return the indices of the readable samples of each of these splits.

    split: (n,) names. unreadable: the samples among these n that can't be read.
    """
    readable = np.ones(len(split), dtype=bool)
    readable[list(unreadable)] = False
    return {name: np.flatnonzero(split.isin(name) & readable) for name in names}
