"""Primary projection: remove from each pretext's gradient what opposes the supervised tasks.

The gradients of the supervised tasks never change. The projection is that of A-GEM: Chaudhry,
Ranzato, Rohrbach and Elhoseiny, "Efficient Lifelong Learning with A-GEM", ICLR 2019,
arXiv:1812.00420, eq. 11. It is also the projection of PCGrad, applied to the pretexts only: Yu et
al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from torch import Tensor, nn

from ..contracts import StepLosses
from .gramian import GramianModule, GramianWeighting, normalized, products_with_primary


@frozen
class PrimaryProjection(GramianWeighting):
    """g_i becomes g_i - (<g_i, p> / |p|^2) p for each pretext i with <g_i, p> < 0.

    p is the primary gradient, the sum of the weighted gradients of the supervised tasks.

    In terms of task weights: pretexts keep 1, and the supervised tasks get
    1 + sum_i max(0, -<g_i, p>) / |p|^2. Hence <step, p> >= |p|^2, whatever the pretexts are. If p
    is much shorter than an opposing gradient, these task weights are large, but their product with
    p is not. Without a supervised task or without a pretext, the objective is the sum of losses.
    """

    cites = (
        "Chaudhry et al. 2019 (A-GEM), ICLR, eq. 11, arXiv:1812.00420; "
        "Yu et al. 2020 (PCGrad), NeurIPS, Algorithm 1"
    )
    protects = True

    def build(self, names: Sequence[str]) -> nn.Module:
        return _PrimaryProjection()


class _PrimaryProjection(GramianModule):
    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        products, square = products_with_primary(normalized(gram), losses.primary)
        # A supervised task that opposes the others stays unchanged: only pretexts are projected.
        opposing = (-products).clamp_min(0) * ~losses.primary
        removed = torch.where(square > 0, opposing.sum() / square, 0)
        return 1 + removed * losses.primary
