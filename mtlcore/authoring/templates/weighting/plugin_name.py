"""plugin_name: limit the size of each loss.

Replace this text with your own: what the weighting reads, what it computes, and the paper.
Shapes: K losses that are present in the step, (K,).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from attrs import field, frozen
from attrs.validators import gt
from torch import Tensor, nn

from mtlcore import LossWeighting, StepLosses, hookimpl


@frozen
class PluginName(LossWeighting):
    """Scale losses above a limit down to it, so that no loss dominates the others.

    limit: the largest value of a weighted loss, above 0.
    """

    name = "plugin_name"
    cites = "original"
    # The conformance kit expects the same result in any unit of the losses. This component can't
    # have it, and declares why.
    lacks: ClassVar[Mapping[str, str]] = {"units": "the limit is a number in the losses' own units"}
    limit: float = field(default=3.0, validator=gt(0.0))

    def build(self, names: Sequence[str]) -> nn.Module:
        return PluginNameModule(self.limit)


class PluginNameModule(nn.Module):
    """StepLosses -> the objective, a scalar ().

    The task weight of a loss is the derivative of the objective by that loss.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, losses: StepLosses) -> Tensor:
        # detach(): the weights are constants, so they are the derivatives of the objective.
        task_weights = self.limit / losses.values.detach().clamp(min=self.limit)
        return (task_weights * losses.values).sum()


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
