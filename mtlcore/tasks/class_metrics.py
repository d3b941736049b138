"""The mean accuracy of the classes that occur.

Import this module late: torchmetrics takes a second to load.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy


class MeanClassAccuracy(MulticlassAccuracy):
    """The mean of the classes' accuracies ("balanced accuracy"). Classes without a sample are left
    out, also if they are predicted.
    """

    plot_upper_bound = 1.0

    def __init__(self, classes: int, ignore_index: int | None = None) -> None:
        super().__init__(classes, average="none", ignore_index=ignore_index)

    def compute(self) -> Tensor:
        values, occurs = super().compute(), self.tp + self.fn > 0
        return (torch.where(occurs, values, 0) / occurs.sum()).sum()
