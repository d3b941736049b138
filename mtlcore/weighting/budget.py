"""Budget: the pretexts' share of the gradient norm is held near a target.

After MetaBalance: He, Feng, Cheng, Ji, Guo and Caverlee, "MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient
Magnitudes of Auxiliary Tasks", WWW 2022, arXiv:2203.06801, Algorithm 1 (moving averages of the norms; relax factor r).
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
    """All pretexts get ONE task weight f, tasks 1, so that f A / (f A + P) = share, for A and P the summed norms of the pretexts' and of
    the tasks' weighted gradients, as moving averages by task. So `weight` still says how the pretexts share their budget.

    share: of the whole norm, in (0, 1); 0.5 with one task and one pretext is MetaBalance's equal magnitude.
    relax: 1 holds the share, 0 is the sum of losses; between, the task weight is relax x f + 1 - relax (the paper's r; 0.7 did best there).
    momentum: of the moving averages (the paper's beta).
    Without a primary task, or without a pretext, or where one side has no gradient at all: the sum of losses.
    """

    cites = "He et al. 2022 (MetaBalance), WWW, Algorithm 1, arXiv:2203.06801"
    lacks: ClassVar[Mapping[str, str]] = {
        "sum_of_losses": "its task weight 1 is where the pretexts' share is the target, not where all gradients are equal"
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
        self.norm, self.trust = (
            ByName(names),
            ByName(names),
        )  # averages that start at 0, and how full they are

    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        norm = self._averaged(losses.names, gram.diagonal().clamp_min(0).sqrt())
        tasks, pretexts = (norm * losses.primary).sum(), (norm * ~losses.primary).sum()
        wanted = self.budget.share / (1 - self.budget.share) * tasks / pretexts
        task_weight = self.budget.relax * wanted + 1 - self.budget.relax
        task_weight = torch.where((tasks > 0) & (pretexts > 0) & wanted.isfinite(), task_weight, 1)
        return torch.where(losses.primary, 1, task_weight)

    def _averaged(self, names: tuple[str, ...], now: Tensor) -> Tensor:
        """The moving average of each task's norm, free of the bias of its start."""
        keep = self.budget.momentum
        norm = keep * self.norm.read(names) + (1 - keep) * now
        trust = keep * self.trust.read(names) + (1 - keep)
        self.norm.write(names, norm)
        self.trust.write(names, trust)
        return norm / trust
