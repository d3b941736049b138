"""One dataset, indexed and split; and the count of what it left out.

Malformed samples that `index` passed over and images that can't be read draw on one budget, `max_bad`: within it they
are told once, with examples; beyond it the run stops.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen

from ..config.experiment import DataEntry, Experiment
from ..contracts import Index, Skipped
from ..errors import MtlError, nearest
from .copies import excluded, read_pixels, together
from .splits import Rules, assign, strata_of

EXAMPLES = 3  # names told with each reason


@frozen(eq=False)
class IndexedDataset:
    """An indexed dataset of n samples. split: (n,) names, "" for none; labeled: (n,) bool, samples whose labels are kept.

    absent: why samples are in no split -> how many: the dataset gives them none, or `exclude_duplicates` takes them out.
    """

    label: str
    entry: DataEntry
    index: Index
    split: np.ndarray
    labeled: np.ndarray
    absent: dict[str, int] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def gives(self, name: str) -> bool:
        return name in self.index.annotations

    def refuse_too_many(self, skipped: Skipped) -> None:
        """Raises MtlError where more samples are bad than `max_bad` allows."""
        _refuse_too_many(self.label, self.entry, skipped)

    def left_out(self, skipped: Skipped) -> list[str]:
        """A line for each reason, then one for each note of the dataset."""
        lines = [
            f"data.{self.label}: {n} left out, {reason}" for reason, n in self.absent.items() if n
        ]
        for reason, names in skipped.names.items():
            lines.append(f"data.{self.label}: {len(names)} left out, {reason}: {some(names)}")
        lines += [
            f"data.{self.label}: {n} {reason}" for reason, n in self.index.skipped.notes.items()
        ]
        return lines


def open_dataset(experiment: Experiment, label: str) -> IndexedDataset:
    """Index [data.<label>] and split its samples.

    Raises MtlError: a missing root, no usable sample, too many bad ones, an unknown column.
    """
    entry = experiment.data[label]
    index = entry.component.index()
    _check(label, index)
    _refuse_too_many(label, entry, index.skipped)
    if not len(index):
        raise MtlError(
            f"data.{label} ({_root(entry)}) holds no usable sample{_reasons(index.skipped)}"
        )
    return split_dataset(experiment, label, index)


def split_dataset(experiment: Experiment, label: str, index: Index) -> IndexedDataset:
    """The dataset of an index that is there already. Raises MtlError on an unknown column."""
    entry, n = experiment.data[label], len(index)
    split = (
        index.split
        if entry.split is None
        else _splits(_column(index, entry.split, f"data.{label}.split"))
    )
    group = (
        index.group if entry.group is None else _column(index, entry.group, f"data.{label}.group")
    )
    labels = {name: index.annotations[name] for name in labels_of(experiment, index)}
    absent = {
        "they belong to no split": np.flatnonzero(split == "")
        if split is not None
        else np.arange(0)
    }
    kept = np.ones(n, dtype=bool)
    if entry.exclude_duplicates != "none":
        copy = read_pixels(entry.component, index).copy
        group = together(copy, group)
        absent |= excluded(entry.exclude_duplicates, copy, split, labels)
        kept[np.concatenate(list(absent.values()))] = False
    rules = Rules(experiment.seed, label, experiment.input.validation, entry.labels, entry.limit)
    strata = strata_of(next(iter(labels.values()), None), n)
    official, groups = (None if names is None else names[kept] for names in (split, group))
    assigned = assign(rules, index.keys[kept], strata[kept], official, groups)
    names, labeled = np.full(n, "", dtype=assigned.split.dtype), np.zeros(n, dtype=bool)
    names[kept], labeled[kept] = assigned.split, assigned.labeled
    return IndexedDataset(
        label,
        entry,
        index,
        names,
        labeled,
        {reason: len(samples) for reason, samples in absent.items()},
    )


def labels_of(experiment: Experiment, index: Index) -> tuple[str, ...]:
    """The annotations that the run's tasks read of a dataset, in the order of the tasks; all that it has where none does."""
    read = dict.fromkeys(entry.component.reads for entry in experiment.tasks.values())
    return tuple(name for name in read if name in index.annotations) or tuple(index.annotations)


def some(names: list[str]) -> str:
    """The first few."""
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def _column(index: Index, name: str, where: str) -> np.ndarray:
    known = index.attributes | index.annotations
    if name not in known:
        raise MtlError(
            f"{where} = {name!r}: the dataset has no such column; {nearest(name, known)}"
        )
    return known[name].astype(str)


def _splits(names: np.ndarray) -> np.ndarray:
    """A column of the user's own, with the usual short names of validation understood."""
    return np.where(np.isin(names, ("val", "valid")), "validation", names)


def _check(label: str, index: Index) -> None:
    """What a dataset's author can get wrong, told before it does harm."""
    n = len(index)
    arrays = {f"annotation {k!r}": v for k, v in index.annotations.items()}
    arrays |= {f"attribute {k!r}": v for k, v in index.attributes.items()}
    arrays |= {k: v for k, v in (("split", index.split), ("group", index.group)) if v is not None}
    for name, array in arrays.items():
        if len(array) != n:
            raise MtlError(
                f"data.{label}: its index gives {n} keys but {len(array)} values of {name}"
            )
    names, counts = np.unique(index.keys, return_counts=True)
    if len(names) != n:
        raise MtlError(
            f"data.{label}: its index gives the key {str(names[counts.argmax()])!r} {counts.max()} times"
        )


def _refuse_too_many(label: str, entry: DataEntry, skipped: Skipped) -> None:
    if len(skipped) > entry.max_bad:
        raise MtlError(
            f"data.{label} ({_root(entry)}): {len(skipped)} samples are malformed or unreadable, more than "
            f"max_bad = {entry.max_bad}{_reasons(skipped)}. Mend the files, or raise data.{label}.max_bad"
        )


def _reasons(skipped: Skipped) -> str:
    """What was skipped, as the tail of a message."""
    return "".join(
        f"; {reason} ({len(names)}): {some(names)}" for reason, names in skipped.names.items()
    )


def _root(entry: DataEntry) -> str:
    return str(getattr(entry.component, "root", type(entry.component).__name__))
