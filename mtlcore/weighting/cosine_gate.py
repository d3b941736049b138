"""Cosine gate: a pretext counts only while its gradient agrees with that of the supervised tasks.

Du, Czarnecki, Jayakumar, Farajtabar, Pascanu and Lakshminarayanan, "Adapting Auxiliary Losses Using
Gradient Similarity", 2018, arXiv:1812.02224: the unweighted version, and the weighted version of
Proposition 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor, nn

from ..contracts import StepLosses
from .gramian import GramianModule, GramianWeighting, normalized, products_with_primary


@frozen
class CosineGate(GramianWeighting):
    """A pretext's task weight depends on the cosine c of its gradient and the primary gradient.

    The primary gradient is the sum of the weighted gradients of the supervised tasks.

    mode: "gate" (the unweighted version): the task weight is 1 if c >= 0, else 0. "weighted": it is
    max(0, c); for this version the paper proves convergence on the primary losses.

    Supervised tasks always have the task weight 1. Without a supervised task or without a pretext,
    the objective is the sum of losses. With `at = "parameters"`, the own head of a gated pretext
    continues to learn, so that it is ready when the gate opens.
    """

    cites = "Du et al. 2018, arXiv:1812.02224, Proposition 1"
    protects = True
    mode: Literal["gate", "weighted"] = field(default="gate", validator=in_(("gate", "weighted")))

    @property
    def lacks(self) -> Mapping[str, str]:  # type: ignore[override]
        if self.mode == "gate":
            return {}
        return {"sum_of_losses": "a pretext that is orthogonal to the tasks gets its cosine, 0"}

    def build(self, names: Sequence[str]) -> nn.Module:
        return _CosineGate(self.mode == "weighted")


class _CosineGate(GramianModule):
    def __init__(self, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted

    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        gram = normalized(gram)
        primary = losses.primary
        products, square = products_with_primary(gram, primary)
        task_weights = (products >= 0).to(gram)
        if self.weighted:
            lengths = (gram.diagonal() * square).clamp_min(0).sqrt()  # |g_k| |p|
            task_weights = torch.where(lengths > 0, products / lengths, 0).clamp(0, 1)
        return torch.where(primary | ~primary.any(), 1, task_weights)
