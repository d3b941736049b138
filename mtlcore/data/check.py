"""Check a dataset before training: class counts, bad files, copies, leaks between splits.

The checked splits are those before a run cuts validation: the dataset's own splits, those of its
`split` column, or the seeded 80 / 20 cut, which `exclude_duplicates` changes as in a run. The
labels are the annotations that the configured tasks read; if no task reads any, they are all
annotations of the dataset.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from attrs import evolve, frozen

from ..config.experiment import Experiment
from ..contracts import Categories, Column, Index
from ..errors import MtlError, nearest
from .aligned import check_columns, columns_of
from .aligned_tasks import faults
from .cache import Progress
from .copies import disagree, groups_of_copies, read_pixels, shared
from .dataset import cache_size_of
from .fingerprint import fingerprint_of
from .indexed import index_of, labels_of, read_labels, split_dataset
from .joined import JoinedSamples
from .splits import is_labeled

Counts = dict[str, dict[str, int]]  # split -> class -> number of samples


@frozen(eq=False)
class Report:
    """What `mtl data check` finds in [data.<label>].

    index, split: the samples, and the split (N,) of each.
    reads: the annotations that count as labels.
    counts: label -> split -> class -> number of samples. Numbers, maps and points have the one
        class "given", and missing labels the class "". Without labels, all samples count as class
        "" of the label "".
    missing, unreadable: key -> the error message.
    malformed: reason -> names.
    duplicates: the keys of each group of pixel-identical copies.
    conflicting: those groups whose labels differ.
    one_class: annotation -> its only class. No task can learn from it.
    shared: keys of samples outside of train with a copy in train.
    excludes_duplicates: whether a run removes some of them.
    fingerprint: the fingerprint of a run on this dataset alone.
    """

    label: str
    index: Index
    split: Categories
    reads: tuple[str, ...]
    counts: dict[str, Counts]
    missing: dict[str, str]
    unreadable: dict[str, str]
    malformed: dict[str, list[str]]
    duplicates: list[list[str]]
    conflicting: list[list[str]]
    one_class: dict[str, str]
    shared: list[str]
    excludes_duplicates: bool
    fingerprint: str

    def as_json(self) -> dict[str, object]:
        """Return numbers only: `counts`, the number of each kind of problem, the fingerprint.

        `counts` is split -> class -> samples, or annotation -> split -> class -> samples if there
        are several annotations.
        """
        counts: object = self.counts
        if len(self.counts) == 1:
            counts = next(iter(self.counts.values()))
        return {
            "counts": counts,
            "missing": len(self.missing),
            "unreadable": len(self.unreadable),
            "malformed": sum(map(len, self.malformed.values())),
            "duplicate_groups": len(self.duplicates),
            "conflicting_groups": len(self.conflicting),
            "one_class": len(self.one_class),
            "shared_between_splits": len(self.shared),
            "fingerprint": self.fingerprint,
        }


def check_data(
    experiment: Experiment,
    label: str,
    progress: Progress | None = None,
) -> Report:
    """Index [data.<label>] and decode each of its images once. `max_bad` is ignored.

    Raises MtlError if there is no such table, if the dataset can't be indexed or has no usable
    sample, or if a column is unknown.
    """
    if label not in experiment.data:
        raise MtlError(f"there is no table [data.{label}]; {nearest(label, experiment.data)}")
    entry = experiment.data[label]
    index = index_of(label, entry)
    if not len(index):
        reasons = _reasons(index.skipped.names)
        raise MtlError(f"data.{label} has no usable sample; {reasons}")

    check_columns(label, index)
    reads = labels_of(experiment, index)
    labels = {name: index.annotations[name] for name in reads}
    # Before the images are read, so that an unknown column is an error at once.
    split = split_dataset(_before_cuts(experiment, label), label, index).split

    checks = faults(experiment.tasks)
    pixels = read_pixels(entry.component, index, progress, checks)
    # A run does not check maps and points when it looks for copies.
    copy = None if checks else pixels.copy
    if index.split is None and entry.split is None:
        run = _before_cuts(experiment, label, keeps_duplicates=False)
        split = split_dataset(run, label, index, copy).split
    counts = {name: _counts(split, values) for name, values in labels.items()}
    for name, column in columns_of(index).items():
        counts[name] = _counts(split, np.where(column.present, 1.0, np.nan))

    groups = groups_of_copies(pixels.copy)
    decisive = [index.annotations[name] for name in read_labels(experiment, index)]
    conflicting = [indices for indices in groups if disagree(indices, decisive)]
    keys = index.keys
    return Report(
        label=label,
        index=index,
        split=split,
        reads=reads,
        counts=counts or {"": _counts(split, None)},
        missing={str(keys[i]): message for i, message in pixels.missing.items()},
        unreadable={str(keys[i]): message for i, message in pixels.unreadable.items()},
        malformed=index.skipped.names,
        duplicates=[keys[indices].tolist() for indices in groups],
        conflicting=[keys[indices].tolist() for indices in conflicting],
        one_class=_one_class(labels),
        shared=keys[shared(groups, split)].tolist(),
        excludes_duplicates=entry.exclude_duplicates != "none",
        fingerprint=_fingerprint(experiment, label, index, copy),
    )


def _before_cuts(
    experiment: Experiment, label: str, *, keeps_duplicates: bool = True
) -> Experiment:
    """Return an experiment in which all samples of the dataset are in their original splits.

    keeps_duplicates: False if `exclude_duplicates` removes some, as before a run cuts the splits.
    """
    entry = evolve(experiment.data[label], labels=1.0, limit=None)
    if keeps_duplicates:
        entry = evolve(entry, exclude_duplicates="none")
    no_validation = evolve(experiment.input, validation=0.0)
    return evolve(experiment, data={label: entry}, input=no_validation)


def _fingerprint(
    experiment: Experiment,
    label: str,
    index: Index,
    copy: np.ndarray | None,
) -> str:
    dataset = split_dataset(experiment, label, index, copy)
    return fingerprint_of([dataset], cache_size_of(JoinedSamples.join([dataset]), experiment))


def _reasons(malformed: dict[str, list[str]]) -> str:
    reasons = [f"{reason}: {len(names)}" for reason, names in malformed.items()]
    return "; ".join(reasons) or "it is empty"


def _one_class(labels: dict[str, Column]) -> dict[str, str]:
    """Return annotation -> its class, for each categorical one that has only one."""
    found: dict[str, str] = {}
    for name, values in labels.items():
        if isinstance(values, Categories):
            classes = [class_name for class_name in values.used() if class_name]
            if len(classes) == 1:
                found[name] = classes[0]
    return found


def _counts(split: Categories, values: Column | None) -> Counts:
    """Count the samples of each class in each split, both sorted by name."""
    if values is None:
        classes = Categories.filled(len(split), "")
    elif isinstance(values, Categories):
        classes = values
    else:
        classes = Categories(is_labeled(values).astype(np.int32), ("", "given"))

    counts: Counts = {name: {} for name in split.used()}
    pairs = Counter(zip(split.tolist(), classes.tolist()))
    for (split_name, class_name), n in sorted(pairs.items()):
        counts[split_name][class_name] = n
    return counts
