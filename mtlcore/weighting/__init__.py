"""Loss weightings. Each turns the step's losses into ONE objective; the core reads the factors off its derivative."""

from __future__ import annotations

from ..contracts import Component
from ..registry import hookimpl
from .equal import Equal as Equal
from .uncertainty import Uncertainty as Uncertainty


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [Equal, Uncertainty]
