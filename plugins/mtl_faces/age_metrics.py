"""The metric of age estimation. Import it late: torchmetrics takes a second to load."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanMetric


class CumulativeScore(MeanMetric):
    """The share of samples whose error is at most `limit`, in the unit of the targets."""

    higher_is_better = True
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(((preds - target).abs() <= self.limit).float())
