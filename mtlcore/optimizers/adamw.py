"""AdamW, the default.

Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen

from ..contracts import Optimizer, ParameterGroup
from . import ranges


@frozen
class AdamW(Optimizer):
    """Adam with decoupled weight decay. It is fused: it skips a bad step on the device.

    lr: learning rate after the warm-up.
    weight_decay: decay of weights. Biases, norms and other vectors are not decayed.
    momentum: share of the old mean in the running mean of the gradients, beta1 of the paper.
    """

    name = "adamw"
    cites = "Loshchilov and Hutter 2019, ICLR, arXiv:1711.05101"
    lr: float = field(default=1e-3, validator=ranges.learning_rate)
    weight_decay: float = field(default=0.05, validator=ranges.decay)
    momentum: float = field(default=0.9, validator=ranges.momentum)

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        betas = (self.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, fused=True)
