"""What a run predicts for each sample, and the pooled features of samples, both with labels.

Labels and predictions have the form of the annotation: names, or numbers in its unit. They refer to
the view that inference reads: a pose is that of the view, not of the raw image. Tasks whose labels
are maps are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config.experiment import Experiment
from ..contracts import AlignedTask, Annotation, SupervisedTask, View
from ..contracts.task import are_points
from ..data.dataset import RunData
from ..model.inference import Inference
from .measure import Predictions, moved_target
from .validation import ValidationBatches


class FeatureTable(NamedTuple):
    """N samples of a split: their features, labels and keys.

    features: (N, D) float32 on the CPU, the pooled features of the encoder.
    labels: task -> (N,) names, "" where missing; or (N,) or (N, ...) numbers, NaN where missing.
    keys: (N,) strings, the keys of the samples in their datasets.
    """

    features: Tensor
    labels: dict[str, Annotation]
    keys: np.ndarray


class SampleRows:
    """Collects the predictions for the samples of a split, batch by batch. indices: (N,) int64."""

    def __init__(self, experiment: Experiment, data: RunData, indices: np.ndarray) -> None:
        self.experiment = experiment
        self.data = data
        self.indices = indices
        # Values of the samples so far, by the name of the column.
        self.columns: dict[str, list[object]] = {}

    def add(self, found: Predictions) -> None:
        """Add the next samples."""
        for label, entry in self.experiment.tasks.items():
            task = entry.component
            if _is_map(task, found.targets[label]):
                continue
            present = found.present[label].tolist()
            targets = task.target_as_annotation(found.targets[label]).tolist()
            known = [value if here else None for value, here in zip(targets, present)]
            predictions = task.as_annotation(found.predictions[label]).tolist()
            self._column(f"{label}/target").extend(known)
            self._column(f"{label}/prediction").extend(predictions)
            self._column(f"{label}/labeled").extend(present)

    def rows(self) -> list[dict[str, object]]:
        """One dict for each sample, in the order of the indices."""
        datasets = list(self.experiment.data)
        own: dict[str, list[object]] = {
            "key": [str(key) for key in self.data.keys(self.indices)],
            "dataset": [datasets[number] for number in self.data.dataset[self.indices].tolist()],
        }
        columns = own | self.columns
        return [dict(zip(columns, values)) for values in zip(*columns.values())]

    def _column(self, name: str) -> list[object]:
        return self.columns.setdefault(name, [])


@torch.no_grad()
def feature_table(
    net: Inference,
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
    annotations: Sequence[str] = (),
) -> FeatureTable:
    """The pooled features of these samples, with their labels of all tasks.

    annotations: names of further annotations of the data that become labels.
    """
    batches = ValidationBatches(experiment, data, indices, device)
    features: list[Tensor] = []
    labels: dict[str, list[Annotation]] = {}
    for number in range(len(batches)):
        batch = batches.batch(number)
        view = batches.view(batch.images)
        features.append(pooled(net, batches, view).cpu())
        for label, entry in experiment.tasks.items():
            task = entry.component
            if _is_map(task, batch.targets[label]):
                continue
            assert view.geometry is not None
            target, followed = moved_target(label, task, batch.targets[label], view.geometry)
            found = _labels_of(task, target, batch.present[label] & followed)
            labels.setdefault(label, []).append(found)

    joined = {label: np.concatenate(parts) for label, parts in labels.items()}
    for name in annotations:
        joined[name] = data.annotation(name, indices)
    keys = np.array([str(key) for key in data.keys(indices)], dtype=str)
    return FeatureTable(torch.cat(features), joined, keys)


def pooled(net: Inference, batches: ValidationBatches, view: View) -> Tensor:
    """(B, D) float32: the pooled features of a view, from a forward in the run's precision."""
    with batches.autocast():
        features = net.encoder(view.images)
    return features.pooled.float()


def _is_map(task: SupervisedTask, target: Tensor) -> bool:
    """Whether a label is a map, which is too large for a table. Points (B, K, 2) are not maps."""
    return isinstance(task, AlignedTask) and not are_points(target)


def _labels_of(task: SupervisedTask, target: Tensor, present: Tensor) -> Annotation:
    """Targets (B, ...) in the form of the annotation, "" or NaN where there is no label."""
    labels = task.target_as_annotation(target)
    absent = ~present.numpy(force=True)
    if labels.dtype.kind not in "fiub":
        labels = labels.astype(object)
        labels[absent] = ""
        return labels.astype(str)
    numbers = labels.astype(np.float64)
    numbers[absent] = np.nan
    return numbers
