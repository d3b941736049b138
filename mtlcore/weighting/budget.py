"""Budget: keep the pretexts' share of the gradient norm near a target.

After MetaBalance: He, Feng, Cheng, Ji, Guo and Caverlee, "MetaBalance: Improving Multi-Task
Recommendations via Adapting Gradient Magnitudes of Auxiliary Tasks", WWW 2022, arXiv:2203.06801,
Algorithm 1 (moving averages of the norms; relax factor r).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, gt, le, lt
from torch import Tensor, nn

from ..contracts import StepLosses
from .gramian import GramianModule, GramianWeighting
from .state import ByName


@frozen
class Budget(GramianWeighting):
    """All pretexts get ONE task weight f with f A / (f A + P) = share. Tasks keep 1.

    A and P are the summed norms of the weighted gradients of the pretexts and of the supervised
    tasks, each a moving average by task. So `weight` still controls how the pretexts divide their
    budget.

    share: the pretexts' share of the whole norm, in (0, 1). With one task and one pretext, 0.5 is
    MetaBalance's equal magnitude.
    relax: 1 keeps the share exactly, 0 is the sum of losses. In between, the task weight is
    relax x f + 1 - relax (the paper's r, which was best at 0.7).
    momentum: of the moving averages (the paper's beta).

    Without a supervised task or without a pretext, or if all gradients of either are zero, the
    objective is the sum of losses.
    """

    cites = "He et al. 2022 (MetaBalance), WWW, Algorithm 1, arXiv:2203.06801"
    lacks: ClassVar[Mapping[str, str]] = {
        "sum_of_losses": (
            "its task weight 1 is where the pretexts' share is the target, "
            "not where all gradients are equal"
        )
    }
    share: float = field(default=0.5, validator=and_(gt(0.0), lt(1.0)))
    relax: float = field(default=0.7, validator=and_(ge(0.0), le(1.0)))
    momentum: float = field(default=0.9, validator=and_(ge(0.0), lt(1.0)))

    def build(self, names: Sequence[str]) -> nn.Module:
        return _Budget(self, names)


class _Budget(GramianModule):
    def __init__(self, budget: Budget, names: Sequence[str]) -> None:
        super().__init__()
        self.budget = budget
        # The averages start at 0. `trust` is the sum of the weights in each average so far.
        self.norm = ByName(names)
        self.trust = ByName(names)

    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        norm = self._averaged(losses.names, gram.diagonal().clamp_min(0).sqrt())
        tasks = (norm * losses.primary).sum()
        pretexts = (norm * ~losses.primary).sum()
        exact = self.budget.share / (1 - self.budget.share) * tasks / pretexts
        relaxed = self.budget.relax * exact + 1 - self.budget.relax
        is_defined = (tasks > 0) & (pretexts > 0) & exact.isfinite()
        task_weight = torch.where(is_defined, relaxed, 1)
        return torch.where(losses.primary, 1, task_weight)

    def _averaged(self, names: tuple[str, ...], now: Tensor) -> Tensor:
        """Update the moving averages and return them, (K,), without the bias of the start at 0."""
        momentum = self.budget.momentum
        norm = momentum * self.norm.read(names) + (1 - momentum) * now
        trust = momentum * self.trust.read(names) + (1 - momentum)
        self.norm.write(names, norm)
        self.trust.write(names, trust)
        return norm / trust
