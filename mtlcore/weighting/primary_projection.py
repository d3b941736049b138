"""Primary projection: what in a pretext's gradient works AGAINST the supervised tasks is taken out; the tasks are never changed.

The projection is that of A-GEM: Chaudhry, Ranzato, Rohrbach and Elhoseiny, "Efficient Lifelong Learning with A-GEM", ICLR 2019,
eq. 11; it is PCGrad's (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1) done on one side alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor, nn

from ..contracts import StepLosses
from .gramian import GramianModule, GramianWeighting, against_primary, normalized


@frozen
class PrimaryProjection(GramianWeighting):
    """g_i becomes g_i - (<g_i, p> / |p|^2) p for each pretext i with <g_i, p> < 0; p is the tasks' weighted sum.

    In task weights: what is removed is added to the tasks, 1 + sum_i max(0, -<g_i, p>) / |p|^2, and pretexts keep 1. So
    <step, p> >= |p|^2, whatever the pretexts want. Where p is small beside an opposing pretext the tasks' task weights are large,
    their product with p is not. Without a primary task, or without a pretext: the sum of losses.
    """

    cites = "Chaudhry et al. 2019 (A-GEM), ICLR, eq. 11, arXiv:1812.00420; Yu et al. 2020 (PCGrad), NeurIPS, Algorithm 1"
    protects = True

    def build(self, names: Sequence[str]) -> nn.Module:
        return _PrimaryProjection()


class _PrimaryProjection(GramianModule):
    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        dot, square = against_primary(normalized(gram), losses.primary)
        opposed = (-dot).clamp_min(
            0
        ) * ~losses.primary  # a task that opposes the others is no pretext's fault
        removed = torch.where(square > 0, opposed.sum() / square, 0)
        return 1 + removed * losses.primary
