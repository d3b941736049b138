"""Small additions to torchmetrics' regression metrics. Imported late: torchmetrics takes a second to load."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.regression import MeanAbsoluteError, R2Score


class ColumnError(MeanAbsoluteError):
    """Mean absolute error of one column of answers and targets (B, D)."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds[:, self.column], target[:, self.column])


class Determination(R2Score):
    """R2, the mean over D columns, summed up in standardized units: its sums of squares would drown in an offset (years, say).

    NaN for less than two samples.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(self._standard(preds), self._standard(target))

    def compute(self) -> Tensor:
        return super().compute() if self.total > 1 else torch.full((), torch.nan)

    def _standard(self, values: Tensor) -> Tensor:
        return (values - values.new_tensor(self.mean)) / values.new_tensor(self.std)
