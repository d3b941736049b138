"""Open the data of a run, in three steps.

1. `index_data`: index the datasets, split their samples, join them.
2. `resolve`: fit the tasks and find the cache size. The result is an Experiment in which everything
   that was learned from the data is explicit. A run saves it.
3. `read_images`: read the images of the opened splits, and the targets -> `RunData`.

`open_data` takes all three steps. Everything that is left out is counted and reported in
`RunData.report`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from ..config.experiment import Experiment, TaskEntry
from ..contracts import AlignedTask, Annotation, Categories, Column, SupervisedTask
from ..contracts.columns import is_numbers
from ..contracts.texts import CHUNK, Texts
from ..errors import MtlError, nearest
from ..image_size import written
from .aligned import LabelColumn, columns_of
from .aligned_tasks import (
    aligned_reads,
    has_label,
    label_columns,
    label_names,
    presence,
    refuse_wrong_kind,
    with_annotations,
)
from .cache import ImageCache, OnDemandImageCache, Progress, Unreadable, cache_size, open_images
from .indexed import IndexedDataset, open_dataset
from .joined import JoinedSamples, annotation_of, joined_annotation
from .report import (
    TaskTargets,
    lines_for_dropped,
    lines_for_skipped,
    lines_for_tasks_without_labels,
    lines_for_unknown_labels,
    refuse_too_many,
)
from .run_data import RunData as RunData
from .run_data import has_any_label
from .splits import is_labeled


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

    The arguments and errors are those of `index_data`, `resolve` and `read_images`.
    """
    indexed = index_data(experiment, splits)
    resolved = resolve(experiment, indexed)
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
    report = _tasks_without_labels(experiment.tasks, datasets, training)
    requested = None if splits is None else tuple(splits)
    return IndexedData(JoinedSamples.join(datasets), requested, tuple(report))


def resolve(experiment: Experiment, indexed: IndexedData) -> Experiment:
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
            tasks[label] = entry if label in aligned else _fit(label, entry, samples)

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

    experiment: as `resolve` returns it.
    progress: called with the number of images that are read.
    memory: a limit in bytes. Images that need more are decoded on demand (default: half of the
        usable memory).
    lazy: read no image in advance, for callers that look at a few images only. Unreadable samples
        then stay in their splits, and taking one raises MtlError.

    Raises MtlError for a split without samples and for too many unreadable images.
    """
    size = experiment.input.cache_size
    if size is None:
        raise MtlError("read_images: the experiment is not resolved: call `resolve` first")
    everything, tasks = indexed.samples, experiment.tasks
    columns = label_columns(tasks, everything)
    targets, present = _labels(tasks, columns, everything)
    split = _drop_unlabeled(everything, present)

    opened_splits = _splits_to_open(split, indexed.splits)
    opened = np.flatnonzero(split.isin(*opened_splits))
    samples = everything.subset(opened)
    opened_columns = {name: column.subset(opened) for name, column in columns.items()}
    images, unreadable = _open_images(samples, size, progress, memory, lazy, opened_columns)

    # One task at a time, so that only one task's targets are in memory twice.
    opened_targets: dict[str, Tensor] = {}
    for label in tuple(targets):
        opened_targets[label] = targets.pop(label)[opened]

    def keys(indices: np.ndarray) -> Texts:
        return samples.subset(indices).keys()

    def annotation(name: str, indices: np.ndarray) -> Annotation:
        return annotation_of(name, samples.subset(indices))

    data = RunData(
        images=images,
        targets=opened_targets,
        present={label: of_task[opened] for label, of_task in present.items()},
        dataset=samples.dataset,
        attributes=samples.attributes(),
        split=_indices(split[opened], opened_splits, unreadable),
        fingerprint=fingerprint_of(everything.datasets, size),
        keys=keys,
        annotation=annotation,
        aligned=aligned_reads(tasks),
    )
    report = [*indexed.report, *lines_for_skipped(samples, unreadable)]
    report += _report(tasks, everything, split, present, data)
    return evolve(data, report=tuple(report))


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
        samples.decoder(),
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
    check = partial(refuse_too_many, samples)
    return open_images(samples.decoder(), len(samples), size, progress, check, memory, columns)


# ------------------------------------------------------------ tasks


def _tasks_without_labels(
    tasks: Mapping[str, TaskEntry],
    datasets: list[IndexedDataset],
    training: bool,
) -> list[str]:
    """Return a report line for each task without labels in any dataset.

    Raises MtlError if a task has no labels in training, or if no task has labels in evaluation.
    """
    refuse_wrong_kind(tasks, datasets)
    available: list[str] = []
    for dataset in datasets:
        names = ", ".join([*dataset.index.annotations, *columns_of(dataset.index)]) or "none"
        available.append(f"data.{dataset.label} has {names}")

    report: list[str] = []
    for label, entry in tasks.items():
        name = entry.component.reads
        if any(has_label(dataset, name) for dataset in datasets):
            continue
        what = "the map or points" if isinstance(entry.component, AlignedTask) else "the annotation"
        line = f"task.{label} reads {what} {name!r}, which no dataset has ({'; '.join(available)})"
        if training:
            raise MtlError(f"{line}; {nearest(name, label_names(datasets))}")
        report.append(line)
    if tasks and len(report) == len(tasks):
        raise MtlError(report[0])
    return report


def _fit(
    label: str,
    entry: TaskEntry,
    samples: JoinedSamples,
) -> TaskEntry:
    """Fit a task on the labeled training samples."""
    values, has_value = joined_annotation(entry.component.reads, samples.datasets)
    may_learn = (samples.split == "train") & samples.labeled
    learns_from = may_learn[has_value] & is_labeled(values)
    try:
        return evolve(entry, component=entry.component.fit(np.asarray(values[learns_from])))
    except (ValueError, MtlError) as error:
        raise MtlError(f"task.{label}: {error}") from error


def _labels(
    tasks: Mapping[str, TaskEntry],
    columns: Mapping[str, LabelColumn],
    samples: JoinedSamples,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the targets of tasks that read annotations, and which samples have labels of any task.

    Both are dicts: task label -> (N, ...), for all N samples.
    """
    of_annotations: dict[str, TaskTargets] = {}
    for label, entry in with_annotations(tasks).items():
        of_annotations[label] = _targets(entry.component, samples)
    of_tasks = presence(tasks, columns)
    targets: dict[str, Tensor] = {}
    for label, found in of_annotations.items():
        targets[label] = found.targets
        of_tasks[label] = found.present
    present = {label: of_tasks[label] for label in tasks}
    return targets, present


def _targets(task: SupervisedTask, samples: JoinedSamples) -> TaskTargets:
    """Return the targets of all N samples. Labels that training samples do not keep are absent."""
    values, has_value = joined_annotation(task.reads, samples.datasets)
    target, present = _targets_of(task, values)
    present = present & torch.from_numpy(samples.keeps_labels[has_value])
    absent = ~present.view(-1, *[1] * (target.ndim - 1))
    target = target.masked_fill(absent, 0)

    # Scatter the values of some datasets to the positions among all samples.
    n = len(samples)
    positions = torch.from_numpy(np.flatnonzero(has_value))
    all_targets = torch.zeros(n, *target.shape[1:], dtype=target.dtype)
    all_present = torch.zeros(n, dtype=torch.bool)
    return TaskTargets(
        targets=all_targets.index_copy(0, positions, target),
        present=all_present.index_copy(0, positions, present),
    )


def _targets_of(task: SupervisedTask, values: Column) -> tuple[Tensor, Tensor]:
    """Return targets (n, ...) and present (n,) bool. The task gets each distinct string once."""
    if not isinstance(values, Categories):
        return task.target(values)
    names, position = values.unique()
    target, present = task.target(names)
    index = torch.from_numpy(position)
    return target[index], present[index]


# ------------------------------------------------------------ splits


def _drop_unlabeled(samples: JoinedSamples, present: Mapping[str, Tensor]) -> Categories:
    """Return the split names (N,) with "" for unlabeled training samples that are dropped.

    A dataset with `unlabeled = "keep"` drops none. In a run without tasks, only samples that do not
    keep their labels count as unlabeled.
    """
    labeled = has_any_label(present, len(samples)) if present else samples.labeled
    dataset_drops = np.array([d.entry.unlabeled == "drop" for d in samples.datasets])
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


# ------------------------------------------------------------ fingerprint


def fingerprint_of(datasets: list[IndexedDataset], size: tuple[int, int]) -> str:
    """Return a 128-bit digest of samples, annotations, splits and the cache size, in hex."""
    digest = hashlib.blake2b(repr(written(size)).encode(), digest_size=16)
    for dataset in datasets:
        index = dataset.index
        digest.update(dataset.label.encode())
        annotations = [index.annotations[name] for name in sorted(index.annotations)]
        for column in (index.keys, dataset.split, dataset.labeled, *annotations):
            for content in _bytes(column):
                digest.update(content)
        for name, of_pixels in sorted(columns_of(index).items()):
            digest.update(name.encode())
            digest.update(of_pixels.present.tobytes())
    return digest.hexdigest()


def _bytes(column: Column | Texts) -> Iterator[bytes]:
    """Yield bytes that do not depend on the byte order, or on how strings are stored."""
    if is_numbers(column):
        yield np.ascontiguousarray(column, dtype="<f8").tobytes()
        return
    for start in range(0, len(column), CHUNK):
        if start:
            yield b"\0"
        joined = "\0".join(column[start : start + CHUNK].tolist())
        yield joined.encode(errors="surrogatepass")
