"""`Optimizer`: how gradients update the weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from .components import Component

ParameterGroup = dict[str, Any]
"""Parameters that share a learning rate and a weight decay, as torch's optimizers take them.

params: a list of parameters. weight_decay: 0 for biases, norms and other vectors. lr: only where it
differs from that of the optimizer. The core sets the learning rate of every group before each step.
"""


class Optimizer(Component):
    """How gradients update the weights. Both are class attributes or fields.

    lr: learning rate after the warm-up, of all parameters that have no other one.
    weight_decay: decay of weights. Biases, norms and other vectors are not decayed.

    The optimizer keeps all of its state in `state` and in its groups, as numbers and tensors that
    `state_dict()` returns. A step draws nothing, so that a resumed run repeats it bit for bit.

    A step with a gradient that is not finite changes nothing. A fused optimizer of torch skips it
    on the device. The core does not call `step()` of any other one: it then reads one value back
    to the host, once a step.
    """

    kind = "optimizer"
    lr: float
    weight_decay: float

    @abstractmethod
    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        """Return an optimizer of these groups, each with at least one parameter.

        Raises MtlError if a package is missing, or if a setting is invalid.
        """
