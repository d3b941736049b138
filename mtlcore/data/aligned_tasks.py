"""Tasks that read maps or points, and which samples of a run have a label for them.

Their labels are not kept in memory as targets. The index declares which samples have one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from attrs import evolve
from torch import Tensor

from ..config.experiment import TaskEntry
from ..contracts import AlignedTask
from ..errors import MtlError
from .aligned import Faults, LabelColumn, Size, columns_of, joined_labels
from .indexed import IndexedDataset
from .joined import JoinedSamples


def aligned_reads(tasks: Mapping[str, TaskEntry]) -> dict[str, str]:
    """Return task label -> name of its map or points, for each `AlignedTask`."""
    found: dict[str, str] = {}
    for label, entry in tasks.items():
        if isinstance(entry.component, AlignedTask):
            found[label] = entry.component.reads
    return found


def with_annotations(tasks: Mapping[str, TaskEntry]) -> dict[str, TaskEntry]:
    """Return the tasks that read annotations."""
    aligned = aligned_reads(tasks)
    return {label: entry for label, entry in tasks.items() if label not in aligned}


def label_columns(tasks: Mapping[str, TaskEntry], samples: JoinedSamples) -> dict[str, LabelColumn]:
    """Return the maps and points that these tasks read, by name, for all N samples.

    samples: all samples of the datasets. Labels that training samples do not keep are left out.
    Raises MtlError if a map or points have different forms in two datasets.
    """
    indexes = {dataset.label: dataset.index for dataset in samples.datasets}
    found: dict[str, LabelColumn] = {}
    for name in dict.fromkeys(aligned_reads(tasks).values()):
        column = joined_labels(name, indexes)
        found[name] = evolve(column, present=column.present & samples.keeps_labels)
    return found


def faults(tasks: Mapping[str, TaskEntry]) -> Faults:
    """Return the checks of decoded maps and points."""
    found: dict[str, dict[str, Callable[[np.ndarray, Size], str | None]]] = {}
    for label, entry in tasks.items():
        task = entry.component
        if isinstance(task, AlignedTask) and type(task).fault is not AlignedTask.fault:
            found.setdefault(task.reads, {})[label] = task.fault
    return found


def presence(
    tasks: Mapping[str, TaskEntry], columns: Mapping[str, LabelColumn]
) -> dict[str, Tensor]:
    """Return task label -> (N,) bool, samples with a label, for each `AlignedTask`."""
    return {
        label: torch.from_numpy(columns[name].present)
        for label, name in aligned_reads(tasks).items()
    }


def has_label(dataset: IndexedDataset, name: str) -> bool:
    """Return whether a dataset has an annotation, a map or points of this name."""
    return dataset.has_annotation(name) or name in columns_of(dataset.index)


def label_names(datasets: Sequence[IndexedDataset]) -> set[str]:
    """Return the names of the annotations, maps and points of all these datasets."""
    names: set[str] = set()
    for dataset in datasets:
        names |= {*dataset.index.annotations, *columns_of(dataset.index)}
    return names


def refuse_wrong_kind(tasks: Mapping[str, TaskEntry], datasets: Sequence[IndexedDataset]) -> None:
    """Raise MtlError if a task reads a map, or an `AlignedTask` an annotation."""
    for label, entry in tasks.items():
        name, kind = entry.component.reads, type(entry.component).__name__
        is_aligned = isinstance(entry.component, AlignedTask)
        for dataset in datasets:
            where = f"task.{label} reads {name!r}, which is"
            if is_aligned and dataset.has_annotation(name):
                raise MtlError(
                    f"{where} an annotation of data.{dataset.label}, but {kind} reads maps or "
                    "points: use another task, such as classification"
                )
            if not is_aligned and name in columns_of(dataset.index):
                what = "a map" if name in dataset.index.maps else "points"
                raise MtlError(
                    f"{where} {what} of data.{dataset.label}, but {kind} reads annotations: use a "
                    "task derived from mtlcore.AlignedTask"
                )
