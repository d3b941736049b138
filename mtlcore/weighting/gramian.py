"""What the weightings on the Gramian have in common.

The Gramian (K, K) holds the inner products of the gradients of the WEIGHTED losses,
gram[i, j] = <g_i, g_j>. It determines all norms and cosines of the gradients, and those of any
combination of them: for p = sum_k m_k g_k, <g_i, p> = (gram m)_i and |p|^2 = m gram m.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, in_, le
from torch import Tensor, nn

from ..contracts import LossWeighting, StepLosses
from ..rng import to_device


@frozen
class GramianWeighting(LossWeighting):
    """A weighting on the Gramian.

    at: where gradients are measured. "parameters" is exact and needs one backward for each loss.
    "features" is almost free, but requires that all tasks read the same images.
    every: measure at each `every`-th step, and use the same task weights in between.
    """

    at: Literal["parameters", "features"] = field(
        default="parameters", validator=in_(("parameters", "features"))
    )
    every: int = field(default=1, validator=and_(ge(1), le(10**9)))


class GramianModule(nn.Module, ABC):
    """StepLosses -> sum_k task_weight_k x loss_k, a scalar. The task weights are constants."""

    @abstractmethod
    def task_weights(self, losses: StepLosses, gram: Tensor) -> Tensor:
        """Return the task weights (K,) for the Gramian (K, K), if possible without a host sync."""

    def forward(self, losses: StepLosses) -> Tensor:
        assert losses.gram is not None, (
            "the core measures a Gramian for weightings at parameters or features"
        )
        with torch.no_grad():
            task_weights = self.task_weights(losses, losses.gram).to(losses.values.dtype)
            # A solver returns them on the CPU: the host need not wait for this copy.
            task_weights = to_device(task_weights, losses.values.device)
        return (task_weights * losses.values).sum()


def normalized(gram: Tensor) -> Tensor:
    """Divide the Gramian by its largest diagonal entry, unless that is 0.

    Cosines do not change, and squares of the entries neither overflow nor underflow.
    """
    largest = gram.diagonal().max()
    return gram / torch.where(largest > 0, largest, 1)


def products_with_primary(gram: Tensor, primary: Tensor) -> tuple[Tensor, Tensor]:
    """Return <g_k, p> (K,) and |p|^2 () for the primary gradient p.

    p is the sum of the weighted gradients of the supervised tasks; primary (K,) bool marks them.

    |p|^2 is set to exactly 0 if it is lost in rounding errors (gradients that cancel each other),
    so that a division by it never amplifies noise.
    """
    chosen = primary.to(gram.dtype)
    products = gram @ chosen
    square = chosen @ products
    total_length = gram.diagonal().clamp_min(0).sqrt() @ chosen
    noise = 8 * len(gram) * torch.finfo(gram.dtype).eps * total_length.square()
    return products, torch.where(square > noise, square, 0)
