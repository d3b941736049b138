"""Equal weighting: the objective is the sum of losses, each times its configured `weight`.

Well tuned constant weights are hard to beat: Xin et al., "Do Current Multi-Task Optimization
Methods in Deep Learning Even Help?", NeurIPS 2022, arXiv:2209.11379.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from torch import Tensor, nn

from ..contracts import LossWeighting, StepLosses


@frozen
class Equal(LossWeighting):
    """Every task weight is 1: the objective is the sum of weight x loss."""

    cites = "linear scalarization; Xin et al. 2022, NeurIPS, arXiv:2209.11379"
    additive = True

    def build(self, names: Sequence[str]) -> nn.Module:
        return _Sum()


class _Sum(nn.Module):
    def forward(self, losses: StepLosses) -> Tensor:
        return losses.values.sum()
