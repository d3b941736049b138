"""Concordance of two numbers, from sums over all samples. Imported late: torchmetrics takes a second to load."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics.regression import ConcordanceCorrCoef


class Concordance(ConcordanceCorrCoef):
    """Lin's coefficient of (B, 2) answers and targets: of one column, or the mean of both.

    2 cov / (var + var + (difference of means)^2), variances over N. An answer that never changes has 0 (not NaN).
    """

    higher_is_better = True

    def __init__(self, column: int | None = None) -> None:
        super().__init__(num_outputs=2)
        self.column = column

    def compute(self) -> Tensor:
        apart = (
            self.n_total * (self.mean_x - self.mean_y) ** 2
        )  # var_x, var_y, corr_xy are sums over the samples
        both: Tensor = 2 * self.corr_xy / (self.var_x + self.var_y + apart)
        return both.mean() if self.column is None else both[self.column]


def concordance() -> dict[str, Any]:
    """name -> fresh metric."""
    return {"ccc": Concordance(), "ccc_valence": Concordance(0), "ccc_arousal": Concordance(1)}
