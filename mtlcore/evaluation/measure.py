"""Metrics of supervised tasks on the inference network, and of pretext tasks on the same images.

One forward per image, the "validation" augmentation, no gradient. Metrics of supervised tasks do
not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.utils._pytree import tree_map

from ..config.experiment import Experiment, PretextEntry
from ..contracts import Batch, Output, PreparedBatch, PretextTask, StepCounts, SupervisedTask
from ..data.dataset import RunData
from ..errors import MtlError, nearest
from ..model.hybrid import HybridModel
from ..model.inference import Inference
from ..model.views import prepare
from ..networks import single_rank
from ..rng import VIEW, KeyedRng

if TYPE_CHECKING:
    from torchmetrics import Metric

BATCH = 256  # images of one forward
ALL = ""  # the group of all samples


@frozen
class Measured:
    """The metrics of some images.

    metrics: "<label>/<metric>" -> number. tables: the same for matrices (confusion matrices).
    n: number of images.
    """

    metrics: dict[str, float] = field(factory=dict)
    tables: dict[str, list[list[float]]] = field(factory=dict)
    n: int = 0


# -------------------------------------------------------------------------------- supervised tasks


@single_rank()
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

    mirror: average each prediction with that for the mirrored image.
    """
    meters: dict[str, _TaskMetrics] = {}
    for label, entry in experiment.tasks.items():
        meters[label] = _TaskMetrics(entry.component, data, indices, device)
    training = net.training
    net.eval()
    for batch in _batches(experiment, data, indices, device):
        _update_supervised(meters, net, experiment, batch, mirror)
    net.train(training)

    of_all: dict[str, Metric] = {}
    for label, task_metrics in meters.items():
        for name, metric in task_metrics.metrics[ALL].items():
            of_all[f"{label}/{name}"] = metric
    measured = _computed(of_all, len(indices))
    for label, task_metrics in meters.items():
        for name, value in task_metrics.of_groups().items():
            measured.metrics[f"{label}/{name}"] = value
    return measured


def _update_supervised(
    meters: Mapping[str, _TaskMetrics],
    net: Inference,
    experiment: Experiment,
    batch: Batch,
    mirror: bool,
) -> None:
    """Predict one batch, and update the metrics of all tasks."""
    size = experiment.input.size
    rng = _keyed_rng(experiment, batch.images.device)(VIEW)
    view = experiment.augmentation("validation").view(batch.images, size, rng)
    assert view.geometry is not None
    outputs = net(view.images)
    mirrored = net(view.images.flip(-1)) if mirror else None
    for label, entry in experiment.tasks.items():
        task = entry.component
        prediction = task.decode(outputs[label])
        # The augmentation may crop or turn the image: labels such as a pose move with it.
        target = task.move(batch.targets[label], view.geometry)
        present = batch.present[label]
        if not isinstance(target, Tensor):
            target, share = target
            present = present & (share > 0)
        if mirrored is not None:
            prediction = task.average(prediction, task.decode(mirrored[label]))
        meters[label].update(prediction, target, present)


class _TaskMetrics:
    """The metrics of one task, over all samples and over each group of its `by`.

    metrics: group -> name -> metric. The group of all samples is `ALL`; others are named
    "[attribute=value]", such as "[race=white]".
    """

    def __init__(
        self,
        task: SupervisedTask,
        data: RunData,
        indices: np.ndarray,
        device: torch.device,
    ) -> None:
        groups = {ALL: np.ones(len(indices), dtype=bool)}
        groups |= _groups(task.by, data.attributes, indices)
        self.members: dict[str, Tensor] = {}
        self.metrics: dict[str, dict[str, Metric]] = {}
        for name, here in groups.items():
            self.members[name] = torch.from_numpy(here).to(device)
            self.metrics[name] = _new_metrics(task, device)
        self.n = dict.fromkeys(groups, 0)
        self.seen = 0

    def update(self, prediction: Tensor, target: Tensor, present: Tensor) -> None:
        """Add the next samples, (B, ...). present: (B,) bool, the labeled ones."""
        batch = slice(self.seen, self.seen + len(present))
        for name, members in self.members.items():
            here = present & members[batch]
            count = int(here.sum())
            if not count:
                continue
            self.n[name] += count
            for metric in self.metrics[name].values():
                metric.update(prediction[here], target[here])
        self.seen += len(present)

    def of_groups(self) -> dict[str, float]:
        """Metric and group -> value; first the number of samples of each group, as "n[...]".

        Matrices are left out, and groups without a labeled sample.
        """
        found: dict[str, float] = {}
        for group, n in self.n.items():
            if group == ALL or not n:
                continue
            found[f"n{group}"] = float(n)
            for name, value in _computed(self.metrics[group], n).metrics.items():
                found[f"{name}{group}"] = value
        return found


def _groups(
    by: tuple[str, ...],
    attributes: Mapping[str, np.ndarray],
    indices: np.ndarray,
) -> dict[str, np.ndarray]:
    """The name of each group, "[attribute=value]" -> (N,) bool.

    Attributes that the data lacks are ignored. Samples without a value are in no group.
    """
    found: dict[str, np.ndarray] = {}
    for name in by:
        if name not in attributes:
            continue
        values = attributes[name][indices]
        for value in np.unique(values).tolist():
            if value:
                found[f"[{name}={value}]"] = values == value
    return found


# ---------------------------------------------------------------------------------- pretext tasks


@single_rank()
@torch.no_grad()
def measure_pretexts(
    model: HybridModel,
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
) -> Measured:
    """Every pretext's loss and own metrics on these samples, with the same random draws each time.

    The clean view is that of the "validation" augmentation. Other augmentations that a pretext
    uses are the run's own. The metrics of a coupled loss depend on the batch size, since its
    samples are compared with each other.
    """
    pretexts: dict[str, PretextEntry] = {}
    metrics: dict[str, dict[str, Metric]] = {}
    for label, entry in experiment.pretexts.items():
        pretexts[label] = evolve(entry, samples="all", control="none")
        metrics[label] = _new_metrics(entry.component, device)
    pretexts_only = evolve(experiment, tasks={}, pretexts=pretexts)
    losses = dict.fromkeys(pretexts, 0.0)
    training = model.training
    model.eval()
    for number, batch in enumerate(_batches(experiment, data, indices, device)):
        rng = _keyed_rng(experiment, device, number)
        prepared = prepare(pretexts_only, batch, rng, clean="validation")
        for label, loss in _update_pretexts(metrics, model, prepared).items():
            losses[label] += loss * len(batch.images) / max(1, len(indices))
    model.train(training)

    named: dict[str, Metric] = {}
    for label, own in metrics.items():
        named |= {f"{label}/{name}": metric for name, metric in own.items()}
    measured = _computed(named, len(indices))
    for label, loss in losses.items():
        measured.metrics[f"{label}/loss"] = loss
    return measured


def _update_pretexts(
    metrics: Mapping[str, Mapping[str, Metric]],
    model: HybridModel,
    prepared: PreparedBatch,
) -> dict[str, float]:
    """Run one batch, and update the metrics of all pretexts. -> their losses."""
    losses: dict[str, float] = {}
    features, _ = model.encode(prepared)
    for label, outputs in model.forward_heads(features, prepared).items():
        losses[label] = float(model.compute_losses(label, outputs, prepared))
        target = prepared.head_inputs[label][0].targets[0][0]
        for metric in metrics[label].values():
            metric.update(_to_fp32(outputs[0]), target)
    return losses


# ---------------------------------------------------------------------------------- the best metric


def main_metric(experiment: Experiment) -> tuple[str, bool]:
    """Name of the metric that selects the best checkpoint, and whether higher values are better.

    Raises MtlError if `train.best` is not such a metric.
    """
    if not experiment.tasks:
        return "loss", False
    known: dict[str, bool] = {}
    for label, entry in experiment.tasks.items():
        for name, metric in entry.component.metrics().items():
            if metric.higher_is_better is not None:  # a matrix is neither better nor worse
                known[f"{label}/{name}"] = bool(metric.higher_is_better)
    name = experiment.train.best or next(iter(known))
    if name not in known:
        raise MtlError(f"train.best = {name!r}: no such metric; {nearest(name, known)}")
    return name, known[name]


# ---------------------------------------------------------------------------------- shared


def _new_metrics(
    component: SupervisedTask | PretextTask,
    device: torch.device,
) -> dict[str, Metric]:
    """The component's metrics on the device."""
    metrics = {name: metric.to(device) for name, metric in component.metrics().items()}
    # One rank sees all samples, so a metric must not wait for the others.
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False
    return metrics


def _batches(
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
) -> Iterator[Batch]:
    for start in range(0, len(indices), BATCH):
        chunk = indices[start : start + BATCH]
        index = torch.from_numpy(chunk)
        targets: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        for label in experiment.tasks:
            targets[label] = data.targets[label][index].to(device)
            present[label] = data.present[label][index].to(device)
        images = data.images.take(chunk).images.to(device)
        n = len(chunk)
        yield Batch(images, targets, present, StepCounts({}, n, 0), n)


def _keyed_rng(experiment: Experiment, device: torch.device, batch: int = 0) -> KeyedRng:
    return KeyedRng((experiment.seed, batch), device)


def _to_fp32(output: Output) -> Output:
    def cast(leaf: object) -> object:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf.float()
        return leaf

    return tree_map(cast, output)


def _computed(metrics: Mapping[str, Metric], n: int) -> Measured:
    """The values of these metrics over n images; scalars and matrices apart."""
    measured = Measured(n=n)
    for name, metric in metrics.items():
        if not metric.update_called:  # no sample of this split has the label
            continue
        value = metric.compute()
        if value.ndim == 0:
            measured.metrics[name] = float(value)
        else:
            measured.tables[name] = value.tolist()
    return measured
