"""How good is it? Supervised metrics of the network that is kept, and the pretexts' own on the same images.

One forward an image, the "validation" augmentation, no gradient. Figures of supervised tasks do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.utils._pytree import tree_map

from ..config.experiment import Experiment
from ..contracts import Batch, PretextTask, StepCounts, SupervisedTask
from ..data.dataset import RunData
from ..errors import MtlError, nearest
from ..model.hybrid import HybridModel
from ..model.inference import Inference
from ..model.views import prepare
from ..networks import alone
from ..rng import VIEW, KeyedRng

BATCH = 256


@frozen
class Measured:
    """metrics: "<label>/<metric>" -> number. tables: the same for matrices (confusions). n: images looked at."""

    metrics: dict[str, float] = field(factory=dict)
    tables: dict[str, list[Any]] = field(factory=dict)
    n: int = 0


@alone()
@torch.no_grad()
def measure(
    net: Inference,
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
    mirror: bool = False,
) -> Measured:
    """Every supervised metric on these samples, and on each group of them that a task asks for.

    mirror: average each answer with the one about the mirrored image.
    """
    meters = {
        label: _Meters(e.component, data, indices, device) for label, e in experiment.tasks.items()
    }
    training = net.training
    net.eval()
    for batch in _batches(experiment, data, indices, device):
        view = experiment.augmentation("validation").view(
            batch.images, (experiment.input.size,) * 2, _keyed_rng(experiment, device)(VIEW)
        )
        outputs = net(view.images)
        flipped = net(view.images.flip(-1)) if mirror else None
        for label, entry in experiment.tasks.items():
            task, here = entry.component, batch.present[label]
            assert view.geometry is not None
            answer, target = (
                task.decode(outputs[label]),
                task.move(batch.targets[label], view.geometry),
            )
            if flipped is not None:
                answer = task.average(answer, task.decode(flipped[label]))
            meters[label].update(answer, target, here)
    net.train(training)
    found = _collected(
        {f"{label}/{k}": m for label, its in meters.items() for k, m in its.metrics[""].items()},
        len(indices),
    )
    for label, its in meters.items():
        found.metrics.update(
            {f"{label}/{name}": number for name, number in its.of_groups().items()}
        )
    return found


class _Meters:
    """The metrics of one task: over all samples (""), and over each group that its `by` names ("[race=white]")."""

    def __init__(
        self, task: SupervisedTask, data: RunData, indices: np.ndarray, device: torch.device
    ) -> None:
        groups = {
            "": np.ones(len(indices), dtype=bool),
            **_groups(task.by, data.attributes, indices),
        }
        self.members = {name: torch.from_numpy(here).to(device) for name, here in groups.items()}
        self.metrics = {name: _fresh(task, device) for name in groups}
        self.n = dict.fromkeys(groups, 0)
        self.seen = 0

    def update(self, answer: Tensor, target: Tensor, present: Tensor) -> None:
        """The next samples, (B, ...)."""
        for name, members in self.members.items():
            here = present & members[self.seen : self.seen + len(present)]
            if count := int(here.sum()):
                self.n[name] += count
                for metric in self.metrics[name].values():
                    metric.update(answer[here], target[here])
        self.seen += len(present)

    def of_groups(self) -> dict[str, float]:
        """metric and group -> number; of each group first its number of samples. Matrices are left out."""
        found: dict[str, float] = {}
        for name, n in self.n.items():
            if name and n:
                numbers = _collected(self.metrics[name], n).metrics
                found |= {
                    f"n{name}": float(n),
                    **{f"{key}{name}": value for key, value in numbers.items()},
                }
        return found


def _groups(
    by: tuple[str, ...], attributes: Mapping[str, np.ndarray], indices: np.ndarray
) -> dict[str, np.ndarray]:
    """ "[attribute=value]" -> (N,) bool; samples without a value are in no group."""
    found = {}
    for name in (name for name in by if name in attributes):
        values = attributes[name][indices]
        found.update(
            {f"[{name}={value}]": values == value for value in np.unique(values).tolist() if value}
        )
    return found


@alone()
@torch.no_grad()
def measure_pretexts(
    model: HybridModel,
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
) -> Measured:
    """Every pretext's loss and own metrics on these samples, with the same questions each time.

    The clean view is that of the "validation" augmentation; further augmentations that a pretext asks for are the run's own. The
    figures of a coupled loss depend on the size of its batches, since samples are judged together.
    """
    pretexts = {
        label: evolve(e, samples="all", control="none") for label, e in experiment.pretexts.items()
    }
    quiet = evolve(experiment, tasks={}, pretexts=pretexts)
    metrics = {label: _fresh(entry.component, device) for label, entry in pretexts.items()}
    losses = dict.fromkeys(pretexts, 0.0)
    training = model.training
    model.eval()
    for number, batch in enumerate(_batches(experiment, data, indices, device)):
        prepared = prepare(quiet, batch, _keyed_rng(experiment, device, number), clean="validation")
        features, _ = model.encode(prepared)
        for label, outputs in model.forward_heads(features, prepared).items():
            losses[label] += (
                float(model.compute_losses(label, outputs, prepared))
                * len(batch.images)
                / max(1, len(indices))
            )
            target = prepared.head_inputs[label][0].targets[0][0]
            for metric in metrics[label].values():
                metric.update(_fp32(outputs[0]), target)
    model.train(training)
    found = _collected(
        {f"{label}/{k}": m for label, ms in metrics.items() for k, m in ms.items()}, len(indices)
    )
    found.metrics.update({f"{label}/loss": value for label, value in losses.items()})
    return found


def main_metric(experiment: Experiment) -> tuple[str, bool]:
    """The metric that names the best checkpoint, and whether more of it is better. Raises MtlError where there is no such."""
    numbers = {
        f"{label}/{name}": metric.higher_is_better
        for label, entry in experiment.tasks.items()
        for name, metric in entry.component.metrics().items()
        if metric.higher_is_better is not None  # a matrix has no better
    }
    if not experiment.tasks:
        return "loss", False
    name = experiment.train.best or next(iter(numbers))
    if name not in numbers:
        raise MtlError(f"train.best = {name!r}: no such metric; {nearest(name, numbers)}")
    return name, bool(numbers[name])


def _fresh(component: SupervisedTask | PretextTask, device: torch.device) -> dict[str, Any]:
    """Its metrics on the device. Who measures sees every sample, so there is nothing to ask of other ranks."""
    metrics = {name: metric.to(device) for name, metric in component.metrics().items()}
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False
    return metrics


def _batches(
    experiment: Experiment, data: RunData, indices: np.ndarray, device: torch.device
) -> Iterator[Batch]:
    for start in range(0, len(indices), BATCH):
        part = indices[start : start + BATCH]
        index = torch.from_numpy(part)
        targets = {label: data.targets[label][index].to(device) for label in experiment.tasks}
        present = {label: data.present[label][index].to(device) for label in experiment.tasks}
        yield Batch(
            data.images.take(part).to(device),
            targets,
            present,
            StepCounts({}, len(part), 0),
            len(part),
        )


def _keyed_rng(experiment: Experiment, device: torch.device, number: int = 0) -> KeyedRng:
    return KeyedRng((experiment.seed, number), device)


def _fp32(output: Any) -> Any:
    return tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, output
    )


def _collected(metrics: dict[str, Any], n: int) -> Measured:
    found = Measured(n=n)
    for name, metric in metrics.items():
        if not metric.update_called:  # no sample of this split carries the label
            continue
        value = metric.compute()
        if value.ndim == 0:
            found.metrics[name] = float(value)
        else:
            found.tables[name] = value.tolist()
    return found
