"""Errors of head pose, as sums over samples: metrics do not depend on the batch size.

This module is imported late, since torchmetrics takes long to load.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from .rotations import geodesic_rad, to_pose_deg, wrapped_deg


class _MeanError(Metric):
    """Mean of `errors` over all samples.

    Sums are in double precision, since fp32 sums over many samples drift.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def errors(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Return the error of each sample, (B,)."""
        raise NotImplementedError

    def update(self, decoded: Tensor, target: Tensor) -> None:
        """Add predicted and true rotations, each (B, 3, 3)."""
        errors = self.errors(decoded, target)
        self.total += errors.double().sum()
        self.samples += errors.shape[0]

    def compute(self) -> Tensor:
        return (self.total / self.samples).float()


class AngleError(_MeanError):
    """Mean absolute error of some angles, in degrees.

    axes: yaw (0), pitch (1), roll (2). Differences are wrapped at 360 degrees and not otherwise.
    """

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = list(axes)

    def errors(self, decoded: Tensor, target: Tensor) -> Tensor:
        difference_deg = wrapped_deg(to_pose_deg(decoded) - to_pose_deg(target))
        return difference_deg.abs()[:, self.axes].mean(1)


class GeodesicError(_MeanError):
    """Mean angle between the two rotations, in degrees."""

    def errors(self, decoded: Tensor, target: Tensor) -> Tensor:
        return geodesic_rad(decoded, target) * (180 / math.pi)


def pose_metrics() -> dict[str, Metric]:
    """New metrics by name, in degrees; mae is the mean of the three axes."""
    return {
        "mae": AngleError(0, 1, 2),
        "mae_yaw": AngleError(0),
        "mae_pitch": AngleError(1),
        "mae_roll": AngleError(2),
        "geodesic": GeodesicError(),
    }
