"""Loss weightings. Each turns the step's losses into ONE objective; the core reads the task weights off its derivative."""

from __future__ import annotations

from ..contracts import Component
from ..registry.catalog import hookimpl
from .budget import Budget as Budget
from .cosine_gate import CosineGate as CosineGate
from .equal import Equal as Equal
from .primary_projection import PrimaryProjection as PrimaryProjection
from .schedule import Schedule as Schedule
from .torchjd_methods import TorchJD as TorchJD
from .uncertainty import Uncertainty as Uncertainty


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [Equal, Uncertainty, Schedule, CosineGate, PrimaryProjection, Budget, TorchJD]
