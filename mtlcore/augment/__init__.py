"""Augmentations: how a raw image becomes a view. `mtl_components` tells the catalog of them."""

from __future__ import annotations

from ..contracts import Component
from ..registry.catalog import hookimpl
from .levels import NoAugment as NoAugment
from .levels import Strong as Strong
from .levels import Validation as Validation
from .levels import Weak as Weak


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [NoAugment, Weak, Strong, Validation]
