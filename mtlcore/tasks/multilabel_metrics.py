"""Metrics of several labels: means over the labels that occur.

Import this module late: torchmetrics takes a second to load.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from ..contracts.answers import PRESENT

BELOW_PRESENT = PRESENT - 2**-25  # the fp32 number before it
"""The threshold of metrics. torchmetrics counts a probability above it, answers one from PRESENT
on."""


class MeanAveragePrecision(MultilabelAveragePrecision):
    """The mean of the labels' average precisions. Labels without a positive are left out."""

    plot_upper_bound = 1.0

    def __init__(self, labels: int, ignore_index: int) -> None:
        super().__init__(labels, average="none", ignore_index=ignore_index)

    def compute(self) -> Tensor:
        with warnings.catch_warnings():
            # torchmetrics warns about each label without a positive, and its value is nan or 0.
            warnings.simplefilter("ignore")
            values = super().compute()
        targets = torch.cat(list(self.target)) if isinstance(self.target, list) else self.target
        return _mean(values, (targets == 1).any(0))


class MeanF1(MultilabelF1Score):
    """The mean of the labels' F1. Labels without a positive, true or predicted, are left out."""

    plot_upper_bound = 1.0

    def __init__(self, labels: int, ignore_index: int) -> None:
        super().__init__(labels, BELOW_PRESENT, average="none", ignore_index=ignore_index)

    def compute(self) -> Tensor:
        return _mean(super().compute(), self.tp + self.fp + self.fn > 0)


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    """Return the mean of the kept values, (L,) -> (); nan without any."""
    return (torch.where(kept, values, 0) / kept.sum()).sum()
