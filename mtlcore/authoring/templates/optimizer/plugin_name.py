"""plugin_name: steps of one size, in the direction of the gradient's sign.

Replace this text with your own: what a step computes, and the paper. This one is signSGD:
Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import ge, gt

from mtlcore import Optimizer, ParameterGroup, hookimpl


@frozen
class PluginName(Optimizer):
    """Steps along the sign of the mean gradient.

    lr: learning rate after the warm-up, above 0.
    weight_decay: decay of weights, 0 or more. Biases, norms and other vectors are not decayed.
    momentum: share of the old mean in the mean of the gradients.
    """

    name = "plugin_name"
    cites = "Bernstein et al. 2018, ICML, arXiv:1802.04434"
    lr: float = field(default=1e-3, validator=gt(0.0))
    weight_decay: float = field(default=0.05, validator=ge(0.0))
    momentum: float = field(default=0.9, validator=ge(0.0))

    def build(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer:
        return PluginNameOptimizer(groups, self.lr, self.weight_decay, self.momentum)


class PluginNameOptimizer(torch.optim.Optimizer):
    """All of its state is in `self.state` and in its groups, so a checkpoint holds it."""

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        lr: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue  # a head that is absent from this step
                state = self.state[p]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(p)
                state["mean"].lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(state["mean"].sign(), alpha=group["lr"])


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
