"""Detectors: which regions of an image are predicted."""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .whole import Whole as Whole


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [Whole]
