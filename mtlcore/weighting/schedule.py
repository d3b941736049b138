"""Schedule: task weights as functions of the run's progress, such as a warm-up or a decay.

Ramp up an unsupervised loss: Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning",
ICLR 2017, arXiv:1610.02242, section 2. Switch it off at the end, so that the last steps train the
tasks alone ("post-train"): Jiang et al., "ForkMerge", NeurIPS 2023, arXiv:2301.12618.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

import torch
from attrs import Attribute, field, frozen
from torch import Tensor, nn

from ..contracts import LossWeighting, StepLosses
from ..errors import MtlError, nearest

Points = tuple[tuple[float, float], ...]  # (progress in [0, 1], task weight), progress ascending
HEAVIEST = 1e6


def _check_curve(name: str, points: Points) -> None:
    """Raise ValueError if these points are not a curve. name: the field, for the message."""
    progress = [p for p, _ in points]
    in_range = all(0 <= p <= 1 for p in progress)
    ascending = all(a <= b for a, b in pairwise(progress))
    if not points or not in_range or not ascending:
        raise ValueError(
            f"'{name}' must be points [progress, task weight], "
            f"progress ascending from 0 to 1: {points}"
        )
    if any(not 0 <= weight <= HEAVIEST for _, weight in points):
        raise ValueError(f"'{name}' must have task weights from 0 to {HEAVIEST:g}: {points}")


def _curve(_: object, attribute: Attribute[Points], points: Points) -> None:
    _check_curve(attribute.name, points)


def _curves(_: object, attribute: Attribute[dict[str, Points]], curves: dict[str, Points]) -> None:
    for points in curves.values():
        _check_curve(attribute.name, points)


@frozen
class Schedule(LossWeighting):
    """The sum of losses, but some task weights follow a curve over the run.

    pretexts: points [progress, task weight] for all pretexts.
    of: points for single labels (tasks or pretexts). They take precedence over `pretexts`.

    Between two points the task weight is linear, outside of them it is constant. Two points with
    the same progress are a jump. `pretexts = [[0.0, 0.0], [0.1, 1.0], [0.8, 1.0], [0.8, 0.0]]` is a
    warm-up over 10 % of the run, and switches the pretexts off for the last 20 %.

    A pretext with a task weight of 0 is still encoded, so it costs the same.
    """

    additive = True
    cites = (
        "Laine and Aila 2017, ICLR, section 2, arXiv:1610.02242 (ramp-up); "
        "Jiang et al. 2023, NeurIPS, arXiv:2301.12618"
    )
    pretexts: Points = field(default=((0.0, 1.0),), validator=_curve)
    of: dict[str, Points] = field(factory=dict, validator=_curves)

    def build(self, names: Sequence[str]) -> nn.Module:
        for label in self.of:
            if label not in names:
                raise MtlError(
                    f"weighting.of.{label}: there is no such task or pretext; "
                    f"{nearest(label, names)}. If its weight is 0: move the curve to `pretexts`, "
                    f"or remove it with --set weighting.of={{}}"
                )
        return _Scheduled(self.pretexts, self.of)


class _Scheduled(nn.Module):
    def __init__(self, pretexts: Points, of: dict[str, Points]) -> None:
        super().__init__()
        self.pretexts = pretexts
        self.of = of

    def forward(self, losses: StepLosses) -> Tensor:
        of_pretexts = value_at(self.pretexts, losses.progress)
        task_weights = torch.ones_like(losses.values).masked_fill(~losses.primary, of_pretexts)
        for k, name in enumerate(losses.names):
            if name in self.of:
                # A Python number fills the entry without a copy from the host to the device.
                task_weights[k] = value_at(self.of[name], losses.progress)
        return (task_weights.detach() * losses.values).sum()


def value_at(points: Points, progress: float) -> float:
    """Interpolate linearly between the points; the value is constant outside of them.

    At a jump, the later point applies.
    """
    after = bisect_right([p for p, _ in points], progress)
    if after in (0, len(points)):
        return points[max(after - 1, 0)][1]
    start, low = points[after - 1]
    end, high = points[after]
    return low + (high - low) * (progress - start) / (end - start)
