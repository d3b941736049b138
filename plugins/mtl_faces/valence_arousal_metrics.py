"""Concordance of two numbers, from sums over all samples.

This module is imported late, since torchmetrics takes about a second to load.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.regression import ConcordanceCorrCoef

ROUNDING = 1e-12  # a smaller variance of numbers in [-1, 1] is that of equal ones in fp32


class Concordance(ConcordanceCorrCoef):
    """Lin's coefficient of predictions and targets (B, 2): of one column, or the mean of both.

    2 cov / (var + var + (difference of means)^2), with variances over N. A constant prediction
    gives 0 (not NaN), also if all targets are equal to it.
    """

    higher_is_better = True

    def __init__(self, column: int | None = None) -> None:
        super().__init__(num_outputs=2)
        self.column = column

    def compute(self) -> Tensor:
        # var_x, var_y and corr_xy are sums over the samples, so this term needs the factor N.
        apart = self.n_total * (self.mean_x - self.mean_y) ** 2
        scale = self.var_x + self.var_y + apart
        varies = scale > ROUNDING * self.n_total
        both = torch.where(varies, 2 * self.corr_xy / scale, 0)
        return both.mean() if self.column is None else both[self.column]


def concordance() -> dict[str, Metric]:
    """New metrics by name."""
    return {"ccc": Concordance(), "ccc_valence": Concordance(0), "ccc_arousal": Concordance(1)}
