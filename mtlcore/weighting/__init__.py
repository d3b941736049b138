"""Loss weightings. Each turns the losses of a step into ONE objective.

The core reads the task weights from the objective's derivative with respect to the losses.
"""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .budget import Budget as Budget
from .cosine_gate import CosineGate as CosineGate
from .equal import Equal as Equal
from .primary_projection import PrimaryProjection as PrimaryProjection
from .schedule import Schedule as Schedule
from .torchjd_weighting import TorchJD as TorchJD
from .uncertainty import Uncertainty as Uncertainty


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [Equal, Uncertainty, Schedule, CosineGate, PrimaryProjection, Budget, TorchJD]
