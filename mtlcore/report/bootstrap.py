"""Intervals of metrics by the bootstrap: how much a metric depends on the samples it was read on.

Percentile bootstrap (Efron 1979, "Bootstrap Methods: Another Look at the Jackknife"): draw as many
samples as there are, with replacement; compute the metric; repeat. It says nothing about other
seeds: for these, train several (a study).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric
    from torchmetrics.classification import MulticlassStatScores

RESAMPLES = 200
LEVEL = 0.95
SEED = 0  # of the draws: the same report each time
FEWEST = 10  # samples: an interval of fewer says nothing
MANY = 100  # numbers of one prediction: counting it once is faster than updates of each resample


@runtime_checkable
class MeanOverSamples(Protocol):
    """A metric that is the mean of `errors`. A plugin's metric may have this method."""

    def errors(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the error of each sample, (n,)."""


@frozen
class Estimate:
    """A metric over n samples, with its interval; low and high are NaN if there is none."""

    value: float
    low: float
    high: float
    n: int


def estimate(
    metric: Metric, predictions: Tensor, targets: Tensor, value: float | None = None
) -> Estimate:
    """Compute a scalar metric of n samples with its bootstrap interval.

    predictions, targets: (n, ...), as the metric is updated with. value: the metric of these
    samples, if it is known.
    """
    n = len(targets)
    if value is None:
        value = float(_computed(metric, predictions, targets))
    if n < FEWEST:
        return Estimate(value, float("nan"), float("nan"), n)
    rng = np.random.default_rng(SEED)
    read = _reader(metric, predictions, targets, value)
    values = [read(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), n)


def _computed(metric: Metric, predictions: Tensor, targets: Tensor) -> Tensor:
    metric.reset()
    metric.update(predictions, targets)
    found: Tensor = metric.compute()
    return found


# ---------------------------------------------------------------------------------- resamples

Read = Callable[[np.ndarray], float]
"""The metric of a resample, given the positions (n,) of its samples."""


def _reader(metric: Metric, predictions: Tensor, targets: Tensor, value: float) -> Read:
    """How to read a metric of many resamples of the same samples. value: that of all samples.

    Updates of 200 resamples would take most of the time of a report. A mean over samples needs
    none, and neither do the metrics of torchmetrics that count classes. Of maps and of many points,
    each sample is counted once.
    """
    if isinstance(metric, MeanOverSamples):
        return _mean_of(metric.errors(predictions, targets))
    if _counts_classes(metric):
        return _by_counts(metric, predictions, targets)
    if predictions[0].numel() > MANY:
        read_sums = _by_sums(metric, predictions, targets)
        everything = np.arange(len(targets))
        if read_sums is not None and np.isclose(read_sums(everything), value, rtol=1e-4):
            return read_sums
        metric.reset()
    # The same targets are checked once, by the evaluation.
    if hasattr(metric, "validate_args"):
        metric.validate_args = False

    def read(draw: np.ndarray) -> float:
        chosen = torch.from_numpy(draw)
        return float(_computed(metric, predictions[chosen], targets[chosen]))

    return read


def _mean_of(errors: Tensor) -> Read:
    numbers = errors.double().numpy(force=True)
    return lambda draw: float(numbers[draw].mean())


def _counts_classes(metric: Metric) -> TypeGuard[MulticlassStatScores]:
    """Whether a metric is a function of the right, predicted and true samples of each class."""
    from torchmetrics.classification import MulticlassStatScores

    return (
        isinstance(metric, MulticlassStatScores)
        and (metric.top_k, metric.ignore_index, metric.multidim_average) == (1, None, "global")
        and metric.num_classes is not None
    )


def _by_counts(metric: MulticlassStatScores, predictions: Tensor, targets: Tensor) -> Read:
    """Count the classes of a resample, and let the metric compute its value from the counts."""
    classes = metric.num_classes
    assert classes is not None
    chosen = predictions.argmax(1) if predictions.ndim > targets.ndim else predictions
    predicted, true = chosen.long().numpy(force=True), targets.long().numpy(force=True)
    right = predicted == true
    is_micro = metric.average == "micro"

    def read(draw: np.ndarray) -> float:
        of_true = true[draw]
        tp = np.bincount(of_true[right[draw]], minlength=classes)
        fp = np.bincount(predicted[draw], minlength=classes) - tp
        fn = np.bincount(of_true, minlength=classes) - tp
        tn = len(draw) - (tp + fp + fn)
        for name, counts in {"tp": tp, "fp": fp, "tn": tn, "fn": fn}.items():
            setattr(metric, name, torch.as_tensor(counts.sum() if is_micro else counts))
        return float(type(metric).compute(metric))  # without the wrapper, which keeps the first

    return read


def _by_sums(metric: Metric, predictions: Tensor, targets: Tensor) -> Read | None:
    """Count each sample once, and add the counts of a resample. None if states can't be added.

    The states of most metrics are sums over samples. The caller checks it: the metric of the added
    states of all samples must be that of all samples.
    """
    states: dict[str, list[Tensor]] = {}
    for i in range(len(targets)):
        metric.reset()
        metric.update(predictions[i : i + 1], targets[i : i + 1])
        for name, state in metric.metric_state.items():
            if not isinstance(state, Tensor):
                return None
            states.setdefault(name, []).append(state.clone())
    of_samples = {name: torch.stack(kept) for name, kept in states.items()}

    def read(draw: np.ndarray) -> float:
        times = torch.from_numpy(np.bincount(draw, minlength=len(targets)))
        for name, kept in of_samples.items():
            setattr(metric, name, torch.tensordot(times.to(kept.dtype), kept, dims=1))
        return float(type(metric).compute(metric))  # without the wrapper, which keeps the first

    return read
