"""Open the data of a run: index its datasets, split them, fit its tasks, read its images.

Everything that is left out is counted and reported in `RunData.report`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import partial

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from ..config.experiment import Experiment, TaskEntry
from ..contracts import AlignedTask, Annotation, SupervisedTask
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
from .joined import JoinedSamples, annotation_of_all, joined_annotation
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


def open_data(
    experiment: Experiment,
    splits: Collection[str] | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
    lazy: bool = False,
) -> RunData:
    """Index the datasets, split them, fit the tasks, and read the images.

    Of the training samples only the share `labels` keeps its labels. The others are dropped, or
    stay as unlabeled samples. Every other split keeps all labels.

    splits: the splits to open (default: all); only their images are read. Without "train", tasks
        that the data has no labels for are removed from `targets` and from `RunData.experiment`.
    progress: called with the number of images that are read.
    memory: a limit in bytes. Images that need more are decoded on demand (default: half of the
        usable memory).
    lazy: read no image in advance, for callers that look at a few images only. Unreadable samples
        then stay in their splits, and taking one raises MtlError.

    Raises MtlError for a dataset that can't be indexed or has too many bad samples, a task that no
    dataset has labels for, an unknown column, a split without samples, a task that can't be fitted.
    """
    datasets = [open_dataset(experiment, label) for label in experiment.data]
    training = splits is None or "train" in splits
    tasks, report = _tasks_with_labels(experiment.tasks, datasets, training)

    everything = JoinedSamples.join(datasets)
    annotated = with_annotations(tasks)
    tasks = tasks | {label: _fit(label, entry, everything) for label, entry in annotated.items()}
    annotated = with_annotations(tasks)
    columns = label_columns(tasks, everything)
    targets = {label: _targets(entry.component, everything) for label, entry in annotated.items()}
    present = presence(tasks, columns) | {label: t.present for label, t in targets.items()}
    present = {label: present[label] for label in tasks}
    split = _drop_unlabeled(everything, present)

    opened_splits = _splits_to_open(split, splits)
    size = cache_size_of(datasets, experiment, opened_splits)
    opened = np.flatnonzero(np.isin(split, opened_splits))
    samples = everything.subset(opened)
    opened_columns = {name: column.subset(opened) for name, column in columns.items()}
    images, unreadable = _open_images(samples, size, progress, memory, lazy, opened_columns)
    readable = ~np.isin(np.arange(len(samples)), list(unreadable))

    indices: dict[str, np.ndarray] = {}
    for name in opened_splits:
        indices[name] = np.flatnonzero((split[opened] == name) & readable)

    def annotation(name: str) -> Annotation:
        return annotation_of_all(name, everything)[opened]

    sized_input = evolve(experiment.input, cache_size=size)
    data = RunData(
        experiment=evolve(experiment, tasks=tasks, input=sized_input),
        images=images,
        targets={label: t.targets[opened] for label, t in targets.items()},
        present={label: of_task[opened] for label, of_task in present.items()},
        dataset=samples.dataset,
        keys=samples.keys,
        attributes=samples.attributes(),
        split=indices,
        fingerprint=fingerprint_of(datasets, size),
        annotation=annotation,
        aligned=aligned_reads(tasks),
    )
    report += lines_for_skipped(samples, unreadable)
    report += lines_for_dropped(split, everything, opened_splits)
    report += lines_for_unknown_labels(annotated, targets, everything)
    report += lines_for_tasks_without_labels(data)
    return evolve(data, report=tuple(report))


# ------------------------------------------------------------ images


def cache_size_of(
    datasets: list[IndexedDataset],
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
    everything = JoinedSamples.join(datasets)
    usable = np.isin(everything.split, ("train", "validation"))
    if not usable.any():
        usable = np.isin(everything.split, list(opened_splits))
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


def _tasks_with_labels(
    tasks: Mapping[str, TaskEntry],
    datasets: list[IndexedDataset],
    training: bool,
) -> tuple[dict[str, TaskEntry], list[str]]:
    """Return the tasks that a dataset has labels for, and a report line about each other task.

    Raises MtlError if a task has no labels in training, or if no task has labels in evaluation.
    """
    refuse_wrong_kind(tasks, datasets)
    available: list[str] = []
    for dataset in datasets:
        names = ", ".join([*dataset.index.annotations, *columns_of(dataset.index)]) or "none"
        available.append(f"data.{dataset.label} has {names}")

    found: dict[str, TaskEntry] = {}
    report: list[str] = []
    for label, entry in tasks.items():
        name = entry.component.reads
        if any(has_label(dataset, name) for dataset in datasets):
            found[label] = entry
            continue
        what = "the map or points" if isinstance(entry.component, AlignedTask) else "the annotation"
        line = f"task.{label} reads {what} {name!r}, which no dataset has ({'; '.join(available)})"
        if training:
            raise MtlError(f"{line}; {nearest(name, label_names(datasets))}")
        report.append(line)
    if tasks and not found:
        raise MtlError(report[0])
    return found, report


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
        return evolve(entry, component=entry.component.fit(values[learns_from]))
    except (ValueError, MtlError) as error:
        raise MtlError(f"task.{label}: {error}") from error


def _targets(task: SupervisedTask, samples: JoinedSamples) -> TaskTargets:
    """Return the targets of all N samples. Labels that training samples do not keep are absent."""
    values, has_value = joined_annotation(task.reads, samples.datasets)
    target, present = task.target(values)
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


# ------------------------------------------------------------ splits


def _drop_unlabeled(samples: JoinedSamples, present: Mapping[str, Tensor]) -> np.ndarray:
    """Return the split names (N,) with "" for unlabeled training samples that are dropped.

    A dataset with `unlabeled = "keep"` drops none. In a run without tasks, only samples that do not
    keep their labels count as unlabeled.
    """
    labeled = has_any_label(present, len(samples)) if present else samples.labeled
    dataset_drops = np.array([d.entry.unlabeled == "drop" for d in samples.datasets])
    may_drop = dataset_drops[samples.dataset]
    return np.where((samples.split == "train") & ~labeled & may_drop, "", samples.split)


def _splits_to_open(split: np.ndarray, requested: Collection[str] | None) -> list[str]:
    """Return the names of the splits to open, sorted.

    Raises MtlError for a split without samples, except for validation when train is opened too: a
    run may train without validation.
    """
    known = set(split.tolist()) - {""}
    names = known | {"train", "validation"} if requested is None else set(requested)
    for name in sorted(names):
        may_be_empty = name == "validation" and "train" in names
        if name not in known and not may_be_empty:
            raise MtlError(f"the data has no sample of the split {name!r}; {nearest(name, known)}")
    return sorted(names)


# ------------------------------------------------------------ fingerprint


def fingerprint_of(datasets: list[IndexedDataset], size: tuple[int, int]) -> str:
    """Return a 128-bit digest of samples, annotations, splits and the cache size, in hex."""
    digest = hashlib.blake2b(repr(written(size)).encode(), digest_size=16)
    for dataset in datasets:
        index = dataset.index
        digest.update(dataset.label.encode())
        annotations = [index.annotations[name] for name in sorted(index.annotations)]
        for array in (index.keys, dataset.split, dataset.labeled, *annotations):
            digest.update(_bytes(array))
        for name, of_pixels in sorted(columns_of(index).items()):
            digest.update(name.encode())
            digest.update(_bytes(of_pixels.present))
    return digest.hexdigest()


def _bytes(array: np.ndarray) -> bytes:
    """Return bytes that do not depend on the byte order or on the width of strings."""
    if array.dtype.kind in "fiub":
        return np.ascontiguousarray(array, dtype="<f8").tobytes()
    joined = "\0".join(array.astype(str).ravel().tolist())
    return joined.encode(errors="surrogatepass")
