"""Optimizers: AdamW and SGD, and those of torch and timm by name."""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .adamw import AdamW as AdamW
from .sgd import SGD as SGD
from .timm_optimizers import Timm as Timm
from .torch_optimizers import Torch as Torch


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [AdamW, SGD, Torch, Timm]
