"""Schedule: weights as functions of the run's progress: a warm-up, a decay, a pretext that is off for the last part.

Ramping an unsupervised loss up: Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, section 2.
Leaving it off at the end ("post-train"), so that the last steps serve the tasks alone: Jiang et al., "ForkMerge", NeurIPS 2023.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from attrs import Attribute, field, frozen
from torch import Tensor, nn

from ..contracts import LossWeighting, StepLosses
from ..errors import MtlError, nearest

Points = tuple[tuple[float, float], ...]


def _curve(_: Any, attribute: Attribute[Any], points: Points) -> None:
    progress = [p for p, _ in points]
    if (
        not points
        or any(not 0 <= p <= 1 for p in progress)
        or any(b < a for a, b in pairwise(progress))
    ):
        raise ValueError(
            f"'{attribute.name}' must be points [progress, task weight], progress rising from 0 to 1: {points}"
        )
    if any(not (math.isfinite(f) and f >= 0) for _, f in points):
        raise ValueError(
            f"'{attribute.name}' must have task weights that are finite and not negative: {points}"
        )


def _curves(instance: Any, attribute: Attribute[Any], curves: dict[str, Points]) -> None:
    for points in curves.values():
        _curve(instance, attribute, points)


@frozen
class Schedule(LossWeighting):
    """The sum of losses, but some task weights follow a curve over the run.

    pretexts: points [progress, task weight] for all pretexts. of: points for single labels (tasks or pretexts), which go before.
    Between two points the task weight is linear, outside them it is constant; two points of one progress are a jump. So
    `pretexts = [[0.0, 0.0], [0.1, 1.0], [0.8, 1.0], [0.8, 0.0]]` is a warm-up over 10 % of the run, and off for the last 20 %.
    A pretext whose task weight is 0 is still encoded: it costs the same.
    """

    additive = True
    cites = "Laine and Aila 2017, ICLR, section 2, arXiv:1610.02242 (ramp-up); Jiang et al. 2023, NeurIPS, arXiv:2301.12618"
    pretexts: Points = field(default=((0.0, 1.0),), validator=_curve)
    of: dict[str, Points] = field(factory=dict, validator=_curves)

    def build(self, names: Sequence[str]) -> nn.Module:
        for label in self.of:
            if label not in names:
                raise MtlError(
                    f"weighting.of.{label}: there is no such task or pretext; {nearest(label, names)}. If its weight is 0: "
                    "give the curve under `pretexts` instead, or take it out with --set weighting.of={}"
                )
        return _Scheduled(self.pretexts, self.of)


class _Scheduled(nn.Module):
    def __init__(self, pretexts: Points, of: dict[str, Points]) -> None:
        super().__init__()
        self.pretexts, self.of = pretexts, of

    def forward(self, losses: StepLosses) -> Tensor:
        rest = torch.ones_like(losses.values).masked_fill(
            ~losses.primary, value_at(self.pretexts, losses.progress)
        )
        for k, name in enumerate(losses.names):
            if name in self.of:
                rest[k] = value_at(
                    self.of[name], losses.progress
                )  # a host number: no copy to the device
        return (rest.detach() * losses.values).sum()


def value_at(points: Points, progress: float) -> float:
    """Piecewise linear through `points`, constant outside them; at a jump the later point holds."""
    after = bisect_right([p for p, _ in points], progress)
    if after in (0, len(points)):
        return points[max(after - 1, 0)][1]
    (start, low), (end, high) = points[after - 1 : after + 1]
    return low + (high - low) * (progress - start) / (end - start)
