"""Intervals of metrics by the bootstrap: how much a metric depends on the samples it was read on.

Percentile bootstrap (Efron 1979, "Bootstrap Methods: Another Look at the Jackknife"): draw as many
samples as there are, with replacement; compute the metric; repeat. It says nothing about other
seeds: for these, train several (a study).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from attrs import frozen
from torch import Tensor
from torchmetrics import Metric

RESAMPLES = 200
LEVEL = 0.95
SEED = 0  # of the draws: the same report each time
FEWEST = 10  # samples: an interval of fewer says nothing


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
    read = _reader(metric)
    found = read(predictions, targets) if value is None else value
    if n < FEWEST:
        return Estimate(found, float("nan"), float("nan"), n)
    rng = np.random.default_rng(SEED)
    values = []
    for _ in range(RESAMPLES):
        draw = torch.from_numpy(rng.integers(0, n, n))
        values.append(read(predictions[draw], targets[draw]))
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(found, float(low), float(high), n)


def _reader(metric: Metric) -> Callable[[Tensor, Tensor], float]:
    """A function that computes the metric of some samples."""
    # The same targets are checked once, by the evaluation.
    if hasattr(metric, "validate_args"):
        metric.validate_args = False

    def read(predictions: Tensor, targets: Tensor) -> float:
        metric.reset()
        metric.update(predictions, targets)
        return float(metric.compute())

    return read
