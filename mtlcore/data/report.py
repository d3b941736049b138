"""What a run leaves out of its data, one line for each reason."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ..config.experiment import TaskEntry
from ..contracts import Categories, Skipped
from ..errors import MtlError, first_few
from .cache import Unreadable
from .indexed import EXAMPLES
from .joined import JoinedSamples, joined_annotation
from .run_data import RunData
from .splits import is_labeled


def skipped_by_dataset(samples: JoinedSamples, unreadable: Unreadable) -> list[Skipped]:
    """Return what each dataset skipped, including unreadable images."""
    found: list[Skipped] = []
    for dataset in samples.datasets:
        # A copy: the index of the dataset must not change.
        names = {reason: list(names) for reason, names in dataset.index.skipped.names.items()}
        found.append(Skipped(names))
    for sample, message in sorted(unreadable.items()):
        found[int(samples.dataset[sample])].add("unreadable", message)
    return found


def refuse_too_many(samples: JoinedSamples, unreadable: Unreadable) -> None:
    """Raise MtlError if more samples of a dataset are skipped than its `max_bad` allows."""
    skipped = skipped_by_dataset(samples, unreadable)
    for dataset, of_dataset in zip(samples.datasets, skipped):
        dataset.refuse_too_many(of_dataset)


def lines_for_skipped(samples: JoinedSamples, unreadable: Unreadable) -> list[str]:
    """Return the lines of each dataset about samples that it skipped or that can't be read."""
    skipped = skipped_by_dataset(samples, unreadable)
    lines: list[str] = []
    for dataset, of_dataset in zip(samples.datasets, skipped):
        lines += dataset.report_lines(of_dataset)
    return lines


def lines_for_dropped(
    split: Categories,
    samples: JoinedSamples,
    opened_splits: list[str],
) -> list[str]:
    """Return a line for each dataset whose unlabeled training samples are dropped.

    split: (N,) names after dropping; `samples.split` holds the names before.
    """
    if "train" not in opened_splits:
        return []
    dropped = (samples.split == "train") & (split == "")
    counts = np.bincount(samples.dataset[dropped], minlength=len(samples.datasets))
    lines: list[str] = []
    for dataset, n in zip(samples.datasets, counts.tolist()):
        if n:
            entry = dataset.entry
            lines.append(
                f"data.{dataset.label}: {n} samples of train without labels dropped "
                f'(labels = {entry.labels}, unlabeled = "drop")'
            )
    return lines


def lines_for_unknown_labels(
    tasks: Mapping[str, TaskEntry],
    present: Mapping[str, Tensor],
    samples: JoinedSamples,
) -> list[str]:
    """Return a line for each task that does not know some labels, such as a foreign class.

    present: task label -> (N,) bool, the samples whose label the task knows.

    Raises MtlError for a class that no sample has, if an unknown label is spelled nearly the same.
    """
    lines: list[str] = []
    for label, entry in tasks.items():
        name = entry.component.reads
        values, has_value = joined_annotation(name, samples.datasets)
        may_be_used = is_labeled(values) & samples.keeps_labels[has_value]
        unknown = may_be_used & ~present[label].numpy()[has_value]
        if not unknown.any():
            continue
        line = f"task.{label}: {unknown.sum()} samples have a label {name!r} that it does not know"
        if isinstance(values, Categories):  # unknown numbers would rarely repeat
            counts = Counter(values[unknown].tolist())
            _refuse_misspelled(label, entry, counts, set(values.names))
            line += ": " + first_few(
                [f"{value} ({n})" for value, n in counts.most_common()], EXAMPLES
            )
        lines.append(line)
    return lines


def _refuse_misspelled(
    label: str, entry: TaskEntry, unknown: Counter[str], values: set[str]
) -> None:
    """Raise MtlError if the name of a class is a misspelled label."""
    words = [value for value in unknown if value.isalpha()]  # "1" is no misspelled "10"
    for name in getattr(entry.component, "classes", ()):
        meant = difflib.get_close_matches(name, words, n=1) if name.isalpha() else []
        if meant and name not in values:
            raise MtlError(
                f"task.{label}: no sample has the class {name!r}, and {unknown[meant[0]]} samples "
                f"have the label {meant[0]!r}, which is not one of `classes`: correct the name, or "
                "leave out the class that has no sample"
            )


def lines_for_tasks_without_labels(data: RunData) -> list[str]:
    """Return a line for each split and task without a labeled sample, when evaluating.

    When training, the tasks of the training samples decide instead.
    """
    if "train" in data.split:
        return []
    lines: list[str] = []
    for name, indices in data.split.items():
        for label, present in data.present.items():
            if not present.numpy()[indices].any():
                lines.append(f"task.{label}: no labeled sample in the split {name!r}")
    return lines
