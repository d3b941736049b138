"""Cosine gate: a pretext counts only while it pulls where the supervised tasks pull.

Du, Czarnecki, Jayakumar, Farajtabar, Pascanu and Lakshminarayanan, "Adapting Auxiliary Losses Using Gradient Similarity",
2018, arXiv:1812.02224: the weighted version, of Proposition 1, and the unweighted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from attrs import field, frozen
from attrs.validators import in_
from torch import Tensor, nn

from ..contracts import StepLosses
from .gramian import GramianModule, GramianWeighting, against_primary, normalized


@frozen
class CosineGate(GramianWeighting):
    """A pretext's task weight is a function of the cosine c between its gradient and the primary one (the weighted tasks' sum).

    mode: "gate": 1 where c >= 0, else 0 (the unweighted version). "weighted": max(0, c), with which the paper proves
    convergence on the primary losses. Tasks always have task weight 1. Without a primary task, or without a pretext: the sum of losses.
    A gated pretext's own head keeps learning (at parameters), so that it is ready when the gate opens.
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
        gram, primary = normalized(gram), losses.primary
        dot, square = against_primary(gram, primary)
        task_weight = (dot >= 0).to(gram)
        if self.weighted:
            length = (gram.diagonal() * square).clamp_min(0).sqrt()
            task_weight = torch.where(length > 0, dot / length, 0).clamp(0, 1)
        return torch.where(primary | ~primary.any(), 1, task_weight)
