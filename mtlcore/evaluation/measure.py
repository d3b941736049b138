"""Metrics of supervised tasks on the inference network, and of pretext tasks on the same images.

One forward per image, the "validation" augmentation, the run's precision, no gradient. Batches are
distributed over all ranks. Metrics of supervised tasks do not depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from ..config.experiment import Experiment, PretextEntry
from ..contracts import Batch, Categories, Output, PretextTask, SupervisedTask, Target
from ..data.dataset import RunData
from ..geometry import Geometry
from ..model.hybrid import HybridModel
from ..model.inference import Inference
from ..model.moved_targets import move_target
from ..model.plan import ViewPlan
from ..model.views import prepare
from ..networks import broadcast_buffers, contiguous, single_rank, to_fp32
from .decoded import decoded_predictions, failures_named
from .ranks import Ranks
from .validation import ValidationBatches

if TYPE_CHECKING:
    from torchmetrics import Metric

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


class Predictions(NamedTuple):
    """One batch: task label -> (B, ...) predictions, (B, ...) targets, (B,) bool present."""

    predictions: dict[str, Tensor]
    targets: dict[str, Tensor]
    present: dict[str, Tensor]


@torch.no_grad()
def measure(
    net: Inference,
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
    mirror: bool = False,
    seen: Callable[[Predictions], None] | None = None,
) -> Measured:
    """Every supervised metric on these samples, and on each group of them that a task asks for.

    All ranks of a run must call it. The main rank gets the metrics, the others none.

    mirror: average each prediction with that for the mirrored image.
    seen: called with the predictions of each batch, in order, on the main rank.
    """
    if not experiment.tasks:
        return Measured(n=len(indices))
    batches = ValidationBatches(experiment, data, indices, device)
    meters: dict[str, _TaskMetrics] = {}
    for label, entry in experiment.tasks.items():
        meters[label] = _TaskMetrics(label, entry.component, data, indices, device)

    def of_batch(number: int) -> Predictions:
        return _predict(net, batches, number, mirror)

    with _evaluation(net) as ranks:
        for found in ranks.results(len(batches), of_batch, device):
            for label, task_metrics in meters.items():
                prediction, target = found.predictions[label], found.targets[label]
                task_metrics.update(prediction, target, found.present[label])
            if seen is not None:
                seen(found)
    if not ranks.is_main:
        return Measured(n=len(indices))
    return _of_tasks(meters, len(indices))


def _of_tasks(meters: Mapping[str, _TaskMetrics], n: int) -> Measured:
    """The metrics of all tasks over n images, then those of their groups."""
    of_all: dict[str, Metric] = {}
    for label, task_metrics in meters.items():
        for name, metric in task_metrics.metrics[ALL].items():
            of_all[f"{label}/{name}"] = metric
    measured = _computed(of_all, n)
    for label, task_metrics in meters.items():
        for name, value in task_metrics.of_groups().items():
            measured.metrics[f"{label}/{name}"] = value
    return measured


def _predict(net: Inference, batches: ValidationBatches, number: int, mirror: bool) -> Predictions:
    """Predict one batch, for all tasks."""
    batch = batches.batch(number)
    view = batches.view(batch.images)
    assert view.geometry is not None
    tasks = {label: entry.component for label, entry in batches.experiment.tasks.items()}
    precision = batches.experiment.train.precision
    predictions = decoded_predictions(net, tasks, view.images, precision, mirror)
    targets: dict[str, Tensor] = {}
    followed: dict[str, Tensor] = {}
    for label, task in tasks.items():
        # The augmentation may crop or turn the image: labels such as a pose move with it.
        target = batch.targets[label]
        with failures_named(f"task.{label}"):
            targets[label], followed[label] = moved_target(label, task, target, view.geometry)
    present = {label: here & followed[label] for label, here in batch.present.items()}
    return Predictions(predictions, targets, present)


def moved_target(
    label: str, task: SupervisedTask, target: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """Move targets to the view. Returns them, and (B,) bool: samples whose label was moved."""
    moved, share = move_target(label, task, target, geometry)
    if share is None:
        return moved, torch.ones(len(target), dtype=torch.bool, device=target.device)
    return moved, share > 0


class _TaskMetrics:
    """The metrics of one task, over all samples and over each group of its `by`.

    metrics: group -> name -> metric. The group of all samples is `ALL`; others are named
    "[attribute=value]", such as "[race=white]".
    """

    def __init__(
        self,
        label: str,
        task: SupervisedTask,
        data: RunData,
        indices: np.ndarray,
        device: torch.device,
    ) -> None:
        self.label = label
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
            samples = contiguous((prediction[here], target[here]))
            for metric_name, metric in self.metrics[name].items():
                with failures_named(f"the metric {self.label}/{metric_name}{name}"):
                    metric.update(*samples)
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
            named = {f"{self.label}/{name}{group}": m for name, m in self.metrics[group].items()}
            for name, value in _computed(named, n).metrics.items():
                found[name.removeprefix(f"{self.label}/")] = value
        return found


def _groups(
    by: tuple[str, ...],
    attributes: Mapping[str, Categories],
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
        for value in values.used():
            if value:
                found[f"[{name}={value}]"] = values == value
    return found


# ---------------------------------------------------------------------------------- pretext tasks


class _PretextResults(NamedTuple):
    """One batch of `samples` images. Pretext label -> loss; output and target for its metrics.

    Outputs and targets of pretexts without metrics are left out.
    """

    samples: int
    losses: dict[str, float]
    outputs: dict[str, Output]
    targets: dict[str, Target]


@torch.no_grad()
def measure_pretexts(
    model: HybridModel,
    experiment: Experiment,
    data: RunData,
    indices: np.ndarray,
    device: torch.device,
) -> Measured:
    """Every pretext's loss and own metrics on these samples, with the same random draws each time.

    All ranks of a run must call it. The main rank gets the metrics, the others none.

    The clean view is that of the "validation" augmentation. Pretexts that request other
    augmentations get those of the run. Draws are keyed by the number of the batch, so metrics
    depend on the batch size. Coupled losses do too, since they compare the samples of a batch.
    """
    if not experiment.pretexts:
        return Measured(n=len(indices))
    plan = validation_plan(experiment)
    metrics: dict[str, dict[str, Metric]] = {}
    for label, entry in experiment.pretexts.items():
        metrics[label] = _new_metrics(entry.component, device)
    batches = ValidationBatches(experiment, data, indices, device)
    with_metrics = {label for label, own in metrics.items() if own}

    def of_batch(number: int) -> _PretextResults:
        return _run_pretexts(model, plan, batches, number, with_metrics)

    losses = dict.fromkeys(experiment.pretexts, 0.0)
    with _evaluation(model) as ranks:
        for found in ranks.results(len(batches), of_batch, device):
            for label, loss in found.losses.items():
                losses[label] += loss * found.samples / max(1, len(indices))
            for label, output in found.outputs.items():
                for name, metric in metrics[label].items():
                    with failures_named(f"the metric {label}/{name}"):
                        metric.update(output, found.targets[label])
    if not ranks.is_main:
        return Measured(n=len(indices))

    named: dict[str, Metric] = {}
    for label, own in metrics.items():
        named |= {f"{label}/{name}": metric for name, metric in own.items()}
    measured = _computed(named, len(indices))
    for label, loss in losses.items():
        measured.metrics[f"{label}/loss"] = loss
    return measured


def validation_plan(experiment: Experiment) -> ViewPlan:
    """The views of all pretexts on all samples; the clean one is that of "validation"."""
    pretexts: dict[str, PretextEntry] = {}
    for label, entry in experiment.pretexts.items():
        pretexts[label] = evolve(entry, samples="all", control="none")
    return ViewPlan(
        augment=experiment.augment,
        augmentations=experiment.augmentations,
        size=experiment.input.size,
        pretexts=pretexts,
        clean="validation",
    )


def _run_pretexts(
    model: HybridModel,
    plan: ViewPlan,
    batches: ValidationBatches,
    number: int,
    with_metrics: Collection[str],
) -> _PretextResults:
    """Run the pretexts on one batch. with_metrics: labels of those that have metrics."""
    batch = Batch.unlabeled(batches.images(number))
    prepared = prepare(plan, batch, batches.keyed_rng(number))
    found = _PretextResults(len(batch.images), {}, {}, {})
    with batches.autocast():
        features, _ = model.encode(prepared)
        for label, outputs in model.forward_heads(features, prepared).items():
            with failures_named(f"the loss of pretext.{label}"):
                found.losses[label] = float(model.compute_losses(label, outputs, prepared))
            if label in with_metrics:
                found.outputs[label] = contiguous(to_fp32(outputs[0]))
                found.targets[label] = contiguous(prepared.head_inputs[label][0].targets[0][0])
    return found


# ---------------------------------------------------------------------------------- shared


@contextmanager
def _evaluation(net: nn.Module) -> Iterator[Ranks]:
    """Set eval mode, and equal buffers on all ranks. -> the ranks that evaluate together."""
    ranks = Ranks.current()
    broadcast_buffers(net)
    training = net.training
    net.eval()
    try:
        # Each rank evaluates another batch: a coupled pretext must not gather from all ranks.
        with single_rank():
            yield ranks
    finally:
        net.train(training)


def _new_metrics(
    component: SupervisedTask | PretextTask,
    device: torch.device,
) -> dict[str, Metric]:
    """The component's metrics on the device."""
    metrics = {name: metric.to(device) for name, metric in component.metrics().items()}
    # The main rank has all results, so a metric must not synchronize with the other ranks.
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False
    return metrics


def _computed(metrics: Mapping[str, Metric], n: int) -> Measured:
    """The values of these metrics over n images; scalars and matrices apart."""
    measured = Measured(n=n)
    for name, metric in metrics.items():
        if not metric.update_called:  # no sample of this split has the label
            continue
        with failures_named(f"the metric {name}"):
            value = metric.compute()
            if value.ndim == 0:
                measured.metrics[name] = float(value)
            else:
                measured.tables[name] = value.tolist()
    return measured
