"""Uncertainty weighting: learned loss scales.

Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry
and Semantics", CVPR 2018, arXiv:1705.07115, eq. 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor, nn

from ..contracts import LossWeighting, StepLosses


@frozen
class Uncertainty(LossWeighting):
    """The objective is sum_k exp(-s_k) L_k + s_k with learned s_k = log sigma_k^2.

    This is twice the paper's form for regression. s starts at 0. So the task weights start at 1,
    and the learning rate of the sum of losses remains valid.
    """

    cites = "Kendall, Gal and Cipolla 2018, CVPR, eq. 7, arXiv:1705.07115"
    additive = True
    lacks: ClassVar[Mapping[str, str]] = {
        "units": (
            "s grows towards the logarithm of the loss: small losses gain weight, "
            "large ones lose it"
        )
    }

    def build(self, names: Sequence[str]) -> nn.Module:
        return _Uncertainty(names)


class _Uncertainty(nn.Module):
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.log_var = nn.ParameterDict({name: torch.zeros(()) for name in names})

    def forward(self, losses: StepLosses) -> Tensor:
        s = torch.stack([self.log_var[name] for name in losses.names])
        return (losses.values * torch.exp(-s) + s).sum()
