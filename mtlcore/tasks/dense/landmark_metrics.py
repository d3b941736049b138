"""Metrics of landmarks: normalized mean error, failure rate, and area under the error curve.

Sagonas et al., "300 Faces in-the-Wild Challenge", ICCV workshops 2013.

Import this module late: torchmetrics takes a second to load.

Shapes: B samples, K points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from .map_metrics import PixelMean

SMALLEST = 1e-6  # pixels: a smaller norm is none


def normalized_errors(preds: Tensor, target: Tensor, norm: str, pair: Sequence[int]) -> Tensor:
    """Return the mean distance of each sample's known points / its norm, (n,).

    preds, target: (B, K, 2) pixels. norm, pair: as in `Landmarks`. Samples without a known point,
    or without a norm (an unknown point of the pair, or a box of size 0), are left out. The error
    is inf if a prediction is not finite.
    """
    known = ~target.isnan().any(2)
    distance = torch.where(known, (preds - target).norm(dim=2), 0)
    mean = distance.sum(1) / known.sum(1)
    norms = _norms(target, known, norm, pair)
    measured = known.any(1) & (norms > SMALLEST)
    return (mean / norms)[measured].nan_to_num(torch.inf, torch.inf)


def _norms(target: Tensor, known: Tensor, norm: str, pair: Sequence[int]) -> Tensor:
    if norm == "pair":
        one, other = pair
        return (target[:, one] - target[:, other]).norm(dim=1)
    low = torch.where(known[..., None], target, torch.inf).amin(1)
    high = torch.where(known[..., None], target, -torch.inf).amax(1)
    size = high - low
    return size.prod(1).sqrt() if norm == "box" else size.norm(dim=1)


class _OfSamples(PixelMean):
    """A mean over samples. norm, pair, failure: as in `Landmarks`."""

    def __init__(self, norm: str, pair: Sequence[int], failure: float) -> None:
        super().__init__()
        self.norm_name = norm
        self.pair = tuple(pair)
        self.failure = failure

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.add(self.values(normalized_errors(preds, target, self.norm_name, self.pair)))

    def values(self, errors: Tensor) -> Tensor:
        raise NotImplementedError


class MeanError(_OfSamples):
    """The mean of the normalized errors."""

    def values(self, errors: Tensor) -> Tensor:
        return errors


class FailureRate(_OfSamples):
    """The share of samples whose normalized error is above `failure`."""

    def values(self, errors: Tensor) -> Tensor:
        return (errors > self.failure).float()


class AreaUnderCurve(_OfSamples):
    """The area under the share of samples with an error below e, for e from 0 to `failure`, / it.

    The integral of that share is the mean of (1 - error / failure), or 0 for larger errors.
    """

    higher_is_better = True
    plot_upper_bound = 1.0

    def values(self, errors: Tensor) -> Tensor:
        return (1 - errors / self.failure).clamp_min(0)


def landmark_metrics(norm: str, pair: Sequence[int], failure: float) -> dict[str, Metric]:
    """Return nme, failure_rate and auc. The arguments are fields of `Landmarks`."""
    return {
        "nme": MeanError(norm, pair, failure),
        "failure_rate": FailureRate(norm, pair, failure),
        "auc": AreaUnderCurve(norm, pair, failure),
    }
