"""Augmentation recipes: how a raw image becomes a view. `mtl_components` tells the catalog of them."""

from __future__ import annotations

from ..contracts import Component
from ..registry import hookimpl
from .recipes import NoAugment as NoAugment
from .recipes import Strong as Strong
from .recipes import Validation as Validation
from .recipes import Weak as Weak


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [NoAugment, Weak, Strong, Validation]
