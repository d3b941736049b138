"""plugin_name: no loss counts for more than a limit.

Replace this by your own strategy: what it is shown, what it makes of it, and the paper it comes from.
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
    """Losses above the limit are scaled down to it, so that none drowns the others.

    limit: the largest value that a weighted loss may have.
    """

    name = "plugin_name"
    cites = "original"
    lacks: ClassVar[Mapping[str, str]] = {"units": "the limit is a number in the losses' own units"}
    limit: float = field(default=3.0, validator=gt(0.0))

    def build(self, names: Sequence[str]) -> nn.Module:
        return PluginNameModule(self.limit)


class PluginNameModule(nn.Module):
    """StepLosses -> the objective (); a loss's task weight is its derivative by that loss, and 1 leaves it as it is."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, losses: StepLosses) -> Tensor:
        task_weights = self.limit / losses.values.detach().clamp(min=self.limit)
        return (task_weights * losses.values).sum()


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
