"""Metrics of maps of numbers and of directions: means over all valid pixels.

Import this module late: torchmetrics takes a second to load.

Shapes: B samples, (H, W) pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

BINS_PER_DEGREE = 100  # of the histogram of angles: the median is exact to 0.01 degrees


class PixelMean(Metric):
    """The mean of a number over pixels, as one sum for all batches. NaN without pixels."""

    full_state_update = False
    higher_is_better = False
    plot_lower_bound = 0.0
    total: Tensor
    number: Tensor

    def __init__(self) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float64)
        self.add_state("total", default=zero, dist_reduce_fx="sum")
        self.add_state("number", default=zero.clone(), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add the numbers of some pixels, (n,)."""
        self.total += values.double().sum()
        self.number += values.numel()

    def compute(self) -> Tensor:
        return (self.total / self.number).float()


class _NumberError(PixelMean):
    """positive: whether only numbers above 0 are labels."""

    def __init__(self, positive: bool) -> None:
        super().__init__()
        self.positive = positive

    def known(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the numbers of the pixels that have a label, (n,) each."""
        from .dense_regression import is_known

        known = is_known(target, self.positive)
        return preds[known], target[known]


class AbsoluteError(_NumberError):
    """The mean of |predicted - true|, in the unit of the map."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        predicted, true = self.known(preds, target)
        self.add((predicted - true).abs())


class RelativeError(_NumberError):
    """The mean of |predicted - true| / |true|. Pixels of 0 are left out."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        predicted, true = self.known(preds, target)
        predicted, true = predicted[true != 0], true[true != 0]
        self.add((predicted - true).abs() / true.abs())


def angles_deg(preds: Tensor, target: Tensor) -> Tensor:
    """Return the angles between vectors (B, 3, H, W), of the pixels with a label, (n,) degrees."""
    from .surface_normals import is_direction

    known = is_direction(target)
    a = F.normalize(preds.float(), dim=1).movedim(1, -1)[known]
    b = F.normalize(target.float(), dim=1).movedim(1, -1)[known]
    # Exact for small angles, where the arccosine of nearly 1 is not.
    return torch.rad2deg(2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)))


class MeanAngle(PixelMean):
    """The mean angle in degrees."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.add(angles_deg(preds, target))


class WithinAngle(PixelMean):
    """The share of pixels whose angle is at most a limit, in degrees."""

    higher_is_better = True
    plot_upper_bound = 1.0

    def __init__(self, limit_deg: float) -> None:
        super().__init__()
        self.limit_deg = limit_deg

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.add((angles_deg(preds, target) <= self.limit_deg).float())


class MedianAngle(Metric):
    """The median angle in degrees, exact to 0.01. NaN without pixels."""

    full_state_update = False
    higher_is_better = False
    plot_lower_bound = 0.0
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        bins = torch.zeros(180 * BINS_PER_DEGREE + 1, dtype=torch.int64)
        self.add_state("counts", default=bins, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        angles = angles_deg(preds, target).nan_to_num(180)  # of a prediction of NaN
        position = (angles * BINS_PER_DEGREE).long()
        self.counts += position.bincount(minlength=len(self.counts))

    def compute(self) -> Tensor:
        below = self.counts.cumsum(0)
        if not below[-1]:
            return torch.full((), torch.nan)
        return (below * 2 >= below[-1]).int().argmax().float() / BINS_PER_DEGREE
