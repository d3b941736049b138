"""Augmentations: how a raw image becomes a view."""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .kornia_ops.augmentation import Kornia as Kornia
from .kornia_ops.general import General as General
from .levels import NoAugment as NoAugment
from .levels import Strong as Strong
from .levels import Validation as Validation
from .levels import Weak as Weak


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [NoAugment, Weak, Strong, Validation, Kornia, General]
