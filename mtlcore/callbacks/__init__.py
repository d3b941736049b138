"""The built-in callbacks: a probe of the features, and early stopping."""

from __future__ import annotations

from ..contracts import Callback
from ..registry.hooks import hookimpl
from .early_stopping import EarlyStopping
from .probe import Probe


@hookimpl
def mtl_components() -> list[type[Callback]]:
    return [EarlyStopping, Probe]
