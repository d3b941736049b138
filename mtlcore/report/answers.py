"""What a run answers for each sample of a split, with the labels: what most parts of a report read.

They come from the evaluation of `mtl eval`, so the metrics are the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor

from ..contracts import AlignedTask, AnswerFormat, SupervisedTask
from ..data.cache import Progress
from ..data.dataset import RunData
from ..evaluation.measure import Measured, Predictions, measure
from ..model.preprocess import Preprocess
from .opened import OpenedData, OpenedNetwork, read_split

MOST_BYTES = 1 << 29  # of the predictions of a task that are kept: 512 MiB


@frozen(eq=False)
class Answers:
    """The predictions of one task for the n labeled samples of a split.

    predictions, targets: (n, ...), as metrics read them; None if they are too large to keep.
    indices: (n,) int64, their samples in `data`.
    metrics: name -> value, those of groups too. tables: name -> matrix.
    """

    label: str
    task: SupervisedTask
    split: str
    n: int
    metrics: dict[str, float]
    tables: dict[str, list[list[float]]]
    data: RunData = field(repr=False)
    preprocess: Preprocess = field(repr=False)
    indices: np.ndarray = field(repr=False)
    predictions: Tensor | None = field(repr=False)
    targets: Tensor | None = field(repr=False)

    @property
    def format(self) -> AnswerFormat:
        return self.task.answer_format()

    @property
    def is_map(self) -> bool:
        """Whether the answers are maps or points, which have no names."""
        return isinstance(self.task, AlignedTask)

    def numbers(self, decoded: Tensor) -> np.ndarray:
        """(n, k) float64: predictions, or targets in their form, in real units."""
        numbers = self.task.answer_numbers(decoded).double()
        return numbers.reshape(len(decoded), -1).numpy(force=True)

    def truth(self) -> Tensor:
        """The targets in the form of the predictions."""
        assert self.targets is not None
        return self.task.as_answer(self.targets)

    def views(self, positions: np.ndarray) -> Tensor:
        """(m, 3, H, W) in [0, 1]: what the encoder read of some samples."""
        images = self.data.images.take(self.indices[positions]).images
        return self.preprocess.view(images).images


def answers_of(
    opened: OpenedData,
    network: OpenedNetwork,
    splits: dict[str, str],
    progress: Progress | None = None,
) -> list[Answers]:
    """Evaluate each task on its split; in the order of the tasks."""
    found: dict[str, Answers] = {}
    for split in dict.fromkeys(splits.values()):
        labels = [label for label, own in splits.items() if own == split]
        for answers in _on_split(opened, network, split, labels, progress):
            found[answers.label] = answers
    return [found[label] for label in splits if label in found]


def _on_split(
    opened: OpenedData,
    network: OpenedNetwork,
    split: str,
    labels: Collection[str],
    progress: Progress | None,
) -> list[Answers]:
    data, indices = read_split(opened, split, progress)
    tasks = {label: network.experiment.tasks[label] for label in labels}
    experiment = evolve(network.experiment, tasks=tasks)
    kept = {label: _Kept() for label in labels}

    def keep(found: Predictions) -> None:
        for label, of_task in kept.items():
            of_task.add(found.predictions[label], found.targets[label], found.present[label])

    measured = measure(network.net, experiment, data, indices, network.device, seen=keep)
    found = []
    for label, of_task in kept.items():
        present = torch.cat(of_task.present).numpy()
        complete = not of_task.is_too_large and present.any()
        found.append(
            Answers(
                label=label,
                task=tasks[label].component,
                split=split,
                n=int(present.sum()),
                metrics=_own(measured.metrics, label),
                tables=_own_tables(measured, label),
                data=data,
                preprocess=Preprocess.of(experiment),
                indices=indices[present],
                predictions=torch.cat(of_task.predictions) if complete else None,
                targets=torch.cat(of_task.targets) if complete else None,
            )
        )
    return found


class _Kept:
    """The labeled samples of one task, batch by batch, on the CPU."""

    def __init__(self) -> None:
        self.predictions: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.present: list[Tensor] = []
        self.bytes = 0

    @property
    def is_too_large(self) -> bool:
        return self.bytes > MOST_BYTES

    def add(self, predictions: Tensor, targets: Tensor, present: Tensor) -> None:
        self.present.append(present.cpu())
        self.bytes += predictions[present].nbytes + targets[present].nbytes
        if not self.is_too_large:
            self.predictions.append(predictions[present].cpu())
            self.targets.append(targets[present].cpu())


def _own(metrics: dict[str, float], label: str) -> dict[str, float]:
    start = f"{label}/"
    return {name[len(start) :]: v for name, v in metrics.items() if name.startswith(start)}


def _own_tables(measured: Measured, label: str) -> dict[str, list[list[float]]]:
    start = f"{label}/"
    return {name[len(start) :]: m for name, m in measured.tables.items() if name.startswith(start)}
