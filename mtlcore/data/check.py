"""What is wrong with a data set, before anything is trained on it: counts, faults, copies, leaks.

Splits are those that a run has before it cuts validation: the dataset's own, those of its `split` column, or the seeded
80 / 20 cut. Labels are what the configuration's tasks read of the dataset; without such a task, all of its annotations.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from attrs import evolve, frozen

from ..config.experiment import Experiment
from ..contracts import Annotation, Index
from ..errors import MtlError, nearest
from .cache import Progress
from .copies import disagree, groups_of_copies, read_pixels, shared
from .dataset import cache_size_of, fingerprint_of
from .indexed import labels_of, split_dataset
from .splits import given

Counts = dict[str, dict[str, int]]  # split -> class -> samples


@frozen(eq=False)
class Report:
    """What `mtl data check` says of [data.<label>].

    index, split: what was looked at, and the split (N,) of each sample. reads: the annotations that count as labels.
    counts: of each of them, split -> class -> samples; numbers are counted as "given"; "" is no label. Without any, all samples
    are counted as "" of the annotation "".
    missing, unreadable: key -> why. malformed: reason -> names. duplicates: keys of each group of pixel-identical copies;
    conflicting: those of them with different labels. shared: keys outside of train whose pixels also stand in train.
    fingerprint: the one that a run on this table alone has.
    """

    label: str
    index: Index
    split: np.ndarray
    reads: tuple[str, ...]
    counts: dict[str, Counts]
    missing: dict[str, str]
    unreadable: dict[str, str]
    malformed: dict[str, list[str]]
    duplicates: list[list[str]]
    conflicting: list[list[str]]
    shared: list[str]
    fingerprint: str

    def as_json(self) -> dict[str, object]:
        """Figures alone: `counts` by split and class, how many of each fault, and the fingerprint.

        With several annotations, `counts` is by annotation, split and class.
        """
        return {
            "counts": self.counts if len(self.counts) > 1 else next(iter(self.counts.values())),
            "missing": len(self.missing),
            "unreadable": len(self.unreadable),
            "malformed": sum(map(len, self.malformed.values())),
            "duplicate_groups": len(self.duplicates),
            "conflicting_groups": len(self.conflicting),
            "shared_between_splits": len(self.shared),
            "fingerprint": self.fingerprint,
        }


def check_data(experiment: Experiment, label: str, progress: Progress | None = None) -> Report:
    """Index [data.<label>] and decode each of its images once; `max_bad` does not stop it.

    Raises MtlError: no such table, a dataset that can't be indexed, an unknown column.
    """
    if label not in experiment.data:
        raise MtlError(f"there is no table [data.{label}]; {nearest(label, experiment.data)}")
    entry = experiment.data[label]
    index = entry.component.index()
    if not len(index):
        raise MtlError(f"data.{label} holds no usable sample; {_told(index.skipped.names)}")
    reads = labels_of(experiment, index)
    split = split_dataset(_before_cuts(experiment, label), label, index).split
    pixels = read_pixels(entry.component, index, progress)
    groups = groups_of_copies(pixels.copy)
    labels = [index.annotations[name] for name in reads]
    keys = index.keys.astype(str)
    return Report(
        label=label,
        index=index,
        split=split,
        reads=reads,
        counts={name: _counts(split, index.annotations[name]) for name in reads}
        or {"": _counts(split, None)},
        missing={str(keys[sample]): why for sample, why in pixels.missing.items()},
        unreadable={str(keys[sample]): why for sample, why in pixels.unreadable.items()},
        malformed=index.skipped.names,
        duplicates=[keys[samples].tolist() for samples in groups],
        conflicting=[keys[samples].tolist() for samples in groups if disagree(samples, labels)],
        shared=keys[shared(groups, split)].tolist(),
        fingerprint=_fingerprint(experiment, label, index),
    )


def _before_cuts(experiment: Experiment, label: str) -> Experiment:
    """All samples of the dataset, in train and test."""
    entry = evolve(experiment.data[label], labels=1.0, limit=None, exclude_duplicates="none")
    return evolve(experiment, data={label: entry}, input=evolve(experiment.input, validation=0.0))


def _fingerprint(experiment: Experiment, label: str, index: Index) -> str:
    dataset = split_dataset(experiment, label, index)
    return fingerprint_of([dataset], cache_size_of([dataset], experiment))


def _told(malformed: dict[str, list[str]]) -> str:
    return (
        "; ".join(f"{reason}: {len(names)}" for reason, names in malformed.items()) or "it is empty"
    )


def _counts(split: np.ndarray, values: Annotation | None) -> Counts:
    """split -> class -> samples, both by name."""
    if values is None:
        classes = np.full(len(split), "")
    elif values.dtype.kind in "fiub":
        classes = np.where(given(values), "given", "")
    else:
        classes = values.astype(str)
    found: Counts = {name: {} for name in sorted(set(split.tolist()))}
    for (name, label), number in sorted(Counter(zip(split.tolist(), classes.tolist())).items()):
        found[name][label] = number
    return found
