"""Additions to torchmetrics' regression metrics.

Import this module late: torchmetrics takes a second to load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.regression import MeanAbsoluteError, R2Score


class ColumnError(MeanAbsoluteError):
    """Mean absolute error of one column of predictions and targets (B, D)."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds[:, self.column], target[:, self.column])


class Determination(R2Score):
    """R2, the mean over D columns of (B, D). NaN for fewer than two samples.

    mean, std: D numbers each, the standardization of the columns. Sums are taken of standardized
    values: in raw values with a large offset (years, for example), the sums of squares would lose
    their precision.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean = tuple(mean)
        self.std = tuple(std)

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(self._standardize(preds), self._standardize(target))

    def compute(self) -> Tensor:
        return super().compute() if self.total > 1 else torch.full((), torch.nan)

    def _standardize(self, values: Tensor) -> Tensor:
        return (values - values.new_tensor(self.mean)) / values.new_tensor(self.std)
