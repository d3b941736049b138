"""The labels of a run: which tasks have some, fitting the tasks to them, and their targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from ..config.experiment import TaskEntry
from ..contracts import AlignedTask, Categories, Column, SupervisedTask
from ..errors import MtlError, nearest
from .aligned import LabelColumn, columns_of
from .aligned_tasks import has_label, label_names, presence, refuse_wrong_kind, with_annotations
from .indexed import IndexedDataset
from .joined import JoinedSamples, joined_annotation
from .splits import is_labeled


class TaskTargets(NamedTuple):
    """The labels of one task.

    targets: (N, ...); zeros for samples without a label. present: (N,) bool, samples with a label.
    """

    targets: Tensor
    present: Tensor


def tasks_without_labels(
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


def fit_task(
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


def targets_and_presence(
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
    if has_value.all():
        return TaskTargets(target, present)

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
