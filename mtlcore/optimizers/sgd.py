"""Stochastic gradient descent with momentum.

Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import and_, ge, le

from ..contracts import Optimizer, ParameterGroup
from . import ranges


@frozen
class SGD(Optimizer):
    """Gradient descent with momentum. It is fused: it skips a bad step on the device.

    lr: learning rate after the warm-up.
    weight_decay: decay of weights. Biases, norms and other vectors are not decayed.
    momentum: share of the last update that is added to the next one.
    """

    name = "sgd"
    cites = "Sutskever et al. 2013, ICML"
    lr: float = field(default=1e-3, validator=ranges.learning_rate)
    weight_decay: float = field(default=0.05, validator=ranges.decay)
    momentum: float = field(default=0.9, validator=and_(ge(0.0), le(1.0)))

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=True)
        if self.momentum:
            # torch allocates these buffers uninitialized in the first step. If that step is skipped
            # they would stay so, and a head that is absent from it would have none.
            for group in groups:
                for p in group["params"]:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimizer
