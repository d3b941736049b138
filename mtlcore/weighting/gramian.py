"""What strategies on the Gramian share: their fields, the step from task weights to an objective, and a few inner products.

The Gramian (K, K) holds the inner products of the gradients of the WEIGHTED losses: gram[i, j] = <g_i, g_j>. With it come all
norms and cosines, and those of any combination: p = sum_k m_k g_k has <g_i, p> = (gram m)_i and |p|^2 = m gram m.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from ..contracts import LossWeighting, StepLosses


@frozen
class GramianWeighting(LossWeighting):
    """at: where gradients are measured. "parameters": exactly, one backward a loss. "features": almost free, and only where all
    tasks read the same images. every: measure each N-th step, keep the task weights between.
    """

    at: Literal["parameters", "features"] = field(
        default="parameters", validator=in_(("parameters", "features"))
    )
    every: int = field(default=1, validator=ge(1))


class GramianModule(nn.Module, ABC):
    """StepLosses -> sum_k task_weight_k x loss_k, the task weights being constants."""

    @abstractmethod
    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        """(K,) from the (K, K) Gramian. No host sync where the strategy can do without."""

    def forward(self, losses: StepLosses) -> Tensor:
        assert losses.gram is not None, (
            "the core measures a Gramian for strategies at parameters or features"
        )
        with torch.no_grad():
            task_weights = self.task_weights(losses, losses.gram).to(losses.values)
        return (task_weights * losses.values).sum()


def normalized(gram: Tensor) -> Tensor:
    """The Gramian over its largest diagonal entry; unchanged where that is 0. Cosines stay; squares don't over- or underflow."""
    largest = gram.diagonal().max()
    return gram / torch.where(largest > 0, largest, 1)


def against_primary(gram: Tensor, primary: Tensor) -> tuple[Tensor, Tensor]:
    """<g_k, p> (K,) and |p|^2 () for the primary gradient p, the sum of the supervised tasks' weighted gradients.

    |p|^2 is exactly 0 where it is lost in rounding (gradients that cancel), so that nothing is divided by noise.
    """
    chosen = primary.to(gram.dtype)
    dot = gram @ chosen
    square, size = chosen @ dot, gram.diagonal().clamp_min(0).sqrt() @ chosen
    noise = 8 * len(gram) * torch.finfo(gram.dtype).eps * size.square()
    return dot, torch.where(square > noise, square, 0)
