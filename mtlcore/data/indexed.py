"""Index one dataset and split its samples.

A dataset skips malformed samples while it indexes; others turn out to be unreadable when their
image is decoded. Both count against one limit, `max_bad`: within it they are reported once, with
examples; beyond it the run stops.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from attrs import field, frozen

from ..config.experiment import DataEntry, Experiment
from ..contracts import AlignedTask, Categories, Column, Index, Skipped
from ..contracts.columns import describe, is_keys, is_numbers
from ..contracts.texts import Texts
from ..errors import MtlError, first_few, nearest
from .aligned import check_columns, columns_of
from .copies import excluded, numbering_order, read_pixels, together
from .groups import group_notes, with_own_groups
from .split_names import split_name
from .splits import Rules, assign, is_labeled, strata_of

EXAMPLES = 3  # names that are listed with each reason
# "val" is a split for evaluation alone. The dataset that has it says so.
EXPECTED_SPLITS = {"train", "validation", "val", "test", ""}


@frozen(eq=False)
class IndexedDataset:
    """One dataset of n samples, with its split.

    label, entry: its table [data.<label>].
    index: what the dataset returned.
    split: (n,) names; "" for samples in no split.
    labeled: (n,) bool, samples that keep their labels.
    without_split: reason -> the number of samples that are in no split, because the dataset assigns
        none or because `exclude_duplicates` removes them.
    group_notes: note -> the number of samples or groups that it is about.
    """

    label: str
    entry: DataEntry
    index: Index
    split: Categories
    labeled: np.ndarray
    without_split: dict[str, int] = field(factory=dict)
    group_notes: dict[str, int] = field(factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def keeps_unlabeled(self) -> bool:
        """Whether training samples without labels stay, for the pretexts."""
        if self.entry.unlabeled is None:
            return not has_labels(self.index)
        return self.entry.unlabeled == "keep"

    def has_annotation(self, name: str) -> bool:
        return name in self.index.annotations

    def refuse_too_many(self, skipped: Skipped) -> None:
        """Raise MtlError if more samples are skipped than `max_bad` allows."""
        _refuse_too_many(self.label, self.entry, skipped)

    def report_lines(self, skipped: Skipped) -> list[str]:
        """Return a line for each reason why samples are left out, then one for each note.

        The last line names splits that a run does not use by itself.
        """
        lines: list[str] = []
        for reason, n in self.without_split.items():
            if n:
                lines.append(f"data.{self.label}: {n} left out, {reason}")
        for reason, names in skipped.names.items():
            examples = first_few(names, EXAMPLES)
            lines.append(f"data.{self.label}: {len(names)} left out, {reason}: {examples}")
        for note, n in (self.index.skipped.notes | self.group_notes).items():
            lines.append(f"data.{self.label}: {n} {note}")
        others = [name for name in self.split.used() if name not in EXPECTED_SPLITS]
        if others:
            n = int(self.split.isin(*others).sum())
            lines.append(
                f"data.{self.label}: {n} samples in splits that are neither train, validation nor "
                f"test, used by `--split` alone: {first_few(others, EXAMPLES)}"
            )
        return lines


def open_dataset(experiment: Experiment, label: str) -> IndexedDataset:
    """Index [data.<label>] and split its samples.

    Raises MtlError for a missing root, no usable sample, too many malformed samples, an unknown
    column.
    """
    entry = experiment.data[label]
    index = index_of(label, entry)
    if len(index):  # numpy's empty array has no type of its own
        _check(label, index)
    _refuse_too_many(label, entry, index.skipped)
    if not len(index):
        reasons = _reasons(index.skipped)
        raise MtlError(f"data.{label} ({_root(entry)}) has no usable sample{reasons}")
    return split_dataset(experiment, label, index)


def index_of(label: str, entry: DataEntry) -> Index:
    """Index [data.<label>]. Raises MtlError, with the name of the table, if the dataset can't."""
    try:
        return entry.component.index()
    except MtlError as error:
        raise MtlError(f"data.{label}: {error}") from error


def split_dataset(
    experiment: Experiment,
    label: str,
    index: Index,
    copy: np.ndarray | None = None,
) -> IndexedDataset:
    """Split the samples of a dataset that is already indexed.

    copy: (n,) copies of each other, as in `Pixels`. By default, all images are read to find them.
    Raises MtlError for an unknown column in `split` or `group`.
    """
    entry = experiment.data[label]
    n = len(index)

    split, group = _split_and_group(label, entry, index)
    validation = experiment.input.validation
    if not has_labels(index):
        # Its images serve the pretexts alone: none of them is set aside for the metrics of tasks.
        split = Categories.filled(n, "train") if split is None else split
        validation = 0.0 if experiment.tasks else validation
    labels = {name: index.annotations[name] for name in read_labels(experiment, index)}

    without_split = {"they belong to no split": np.arange(0)}
    if split is not None:
        without_split["they belong to no split"] = np.flatnonzero(split == "")
    used = np.ones(n, dtype=bool)
    linked = group
    if entry.exclude_duplicates != "none":
        if copy is None:
            copy = read_pixels(entry.component, index).copy
        # Copies that remain must not be separated when the run cuts a split.
        linked = together(copy, group, numbering_order(index.keys, split))
        without_split |= excluded(entry.exclude_duplicates, copy, split, labels)
        used[np.concatenate(list(without_split.values()))] = False

    rules = Rules(
        experiment.seed,
        label,
        validation,
        entry.labels,
        entry.limit,
    )
    strata = _strata(experiment, index, labels)
    names, labeled = _assigned(rules, index.keys, strata, split, linked, used)
    counts = {reason: len(indices) for reason, indices in without_split.items()}
    notes = group_notes(group, names)
    return IndexedDataset(label, entry, index, names, labeled, counts, notes)


def _assigned(
    rules: Rules,
    keys: Texts,
    strata: np.ndarray,
    split: Categories | None,
    group: Categories | None,
    used: np.ndarray,
) -> tuple[Categories, np.ndarray]:
    """Assign the used samples. Returns (n,) names, "" for the others, and (n,) bool, the labeled.

    used: (n,) bool. The other arguments are those of `assign`, for all n samples.
    """
    # A slice copies no column.
    chosen = slice(None) if used.all() else used
    official = None if split is None else split[chosen]
    groups = None if group is None else group[chosen]
    assigned = assign(rules, keys[chosen], strata[chosen], official, groups)

    # Samples that are not used get an arbitrary name first, then "".
    codes = np.zeros(len(used), dtype=np.int32)
    codes[used] = assigned.split.codes
    names = Categories(codes, assigned.split.names).blank(~used)
    labeled = np.zeros(len(used), dtype=bool)
    labeled[used] = assigned.labeled
    return names, labeled


def has_labels(index: Index) -> bool:
    """Return whether any sample of a dataset can have a label of any kind."""
    return bool(index.annotations or columns_of(index))


def labels_of(experiment: Experiment, index: Index) -> tuple[str, ...]:
    """Return the annotations of this dataset that the run's tasks read, in the order of the tasks.

    If no task reads any of them, return all annotations of the dataset.
    """
    read_by_tasks = dict.fromkeys(entry.component.reads for entry in experiment.tasks.values())
    used = tuple(name for name in read_by_tasks if name in index.annotations)
    return used or tuple(index.annotations)


def read_labels(experiment: Experiment, index: Index) -> tuple[str, ...]:
    """Return the annotations that decide about splits and duplicates, in the order of the tasks.

    They are those of `labels_of`, but none if tasks read only maps or points of this dataset: an
    annotation such as a number of the image says nothing about them.
    """
    columns = columns_of(index)
    tasks = [entry.component for entry in experiment.tasks.values()]
    if any(isinstance(task, AlignedTask) and task.reads in columns for task in tasks):
        read = {task.reads for task in tasks}
        return tuple(name for name in index.annotations if name in read)
    return labels_of(experiment, index)


def _split_and_group(
    label: str,
    entry: DataEntry,
    index: Index,
) -> tuple[Categories | None, Categories | None]:
    """Return the official splits and the groups, from the columns that the entry names.

    Raises MtlError if there is no such column.
    """
    split, group = index.split, index.group
    if entry.split is not None:
        column = _column(index, entry.split, f"data.{label}.split")
        # Accept usual names of splits, such as "Val" and "dev", in a column that the user names.
        split = column.rename(lambda name: split_name(name) or name)
    if entry.group is not None:
        group = _column(index, entry.group, f"data.{label}.group")
    if group is not None:
        group = with_own_groups(group, index.keys)
    return split, group


def _strata(
    experiment: Experiment,
    index: Index,
    labels: Mapping[str, Column],
) -> np.ndarray:
    """Return (n,) int, the stratum of each sample: its value of the first of these annotations.

    Values that are mostly rare (`SupervisedTask.stratifies`) only count as there or missing. If a
    task reads a map or points, samples with and without them are different strata. Otherwise,
    a small share of the labels could contain none of them.
    """
    name, first = next(iter(labels.items()), ("", None))
    strata = strata_of(first, len(index))
    tasks = [entry.component for entry in experiment.tasks.values()]
    if first is not None and any(task.reads == name and not task.stratifies for task in tasks):
        strata = is_labeled(first).astype(np.int64)
    columns = columns_of(index)
    for entry in experiment.tasks.values():
        name = entry.component.reads
        if isinstance(entry.component, AlignedTask) and name in columns:
            return 2 * strata + columns[name].present
    return strata


def _column(
    index: Index,
    name: str,
    where: str,
) -> Categories:
    """Return an attribute or annotation as (n,) strings, "" for NaN.

    Raises MtlError if there is none.
    """
    known: dict[str, Column] = {**index.attributes, **index.annotations}
    if name not in known:
        raise MtlError(
            f"{where} = {name!r}: the dataset has no such column; {nearest(name, known)}"
        )
    values = known[name]
    if isinstance(values, Categories):
        return values
    texts = values.astype(str)
    texts[np.isnan(values)] = ""
    return Categories.of(texts)


def _check(label: str, index: Index) -> None:
    """Raise MtlError if the index breaks the contract.

    Examples: a column of a wrong type or length, a key that repeats.
    """
    columns: dict[str, Column] = {}
    columns |= {f"annotation {name!r}": values for name, values in index.annotations.items()}
    names = {f"attribute {name!r}": values for name, values in index.attributes.items()}
    if index.split is not None:
        names["split"] = index.split
    if index.group is not None:
        names["group"] = index.group
    check_columns(label, index)

    if not is_keys(index.keys):
        raise MtlError(f"data.{label}: the keys are {describe(index.keys)}; expected (N,) strings")
    n = len(index)
    for name, values in (columns | names).items():
        if not isinstance(values, Categories):
            _check_numbers(f"data.{label}: the {name}", values, name in columns)
        if len(values) != n:
            raise MtlError(
                f"data.{label}: the index has {n} keys but {len(values)} values of {name}"
            )
    repeated = index.keys.repeated()
    if repeated:
        key, times = repeated
        raise MtlError(
            f"data.{label}: the index has the key {key!r} {times} times; expected unique keys"
        )


def _check_numbers(
    what: str,
    values: np.ndarray,
    may_be_numbers: bool,
) -> None:
    """Raise MtlError if a column holds neither strings nor, where they are allowed, numbers."""
    if not may_be_numbers:
        raise MtlError(f"{what} is {describe(values)}; expected (N,) strings: use .astype(str)")
    if not is_numbers(values):
        raise MtlError(f"{what} is {describe(values)}; expected (N,) strings, or floats (N, ...)")


def _refuse_too_many(
    label: str,
    entry: DataEntry,
    skipped: Skipped,
) -> None:
    if len(skipped) > entry.max_bad:
        raise MtlError(
            f"data.{label} ({_root(entry)}): {len(skipped)} samples are malformed or unreadable, "
            f"more than max_bad = {entry.max_bad}{_reasons(skipped)}. "
            f"Fix the files, or raise data.{label}.max_bad"
        )


def _reasons(skipped: Skipped) -> str:
    """Return why samples were skipped, as the end of a message."""
    parts = [
        f"; {reason} ({len(names)}): {first_few(names, EXAMPLES)}"
        for reason, names in skipped.names.items()
    ]
    return "".join(parts)


def _root(entry: DataEntry) -> str:
    """Return where the dataset's files are, or its class name if it has no root."""
    return str(getattr(entry.component, "root", type(entry.component).__name__))
