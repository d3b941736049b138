"""Encoders: networks from normalized images to features. `mtl_components` tells the catalog of them."""

from __future__ import annotations

from ..contracts import Component
from ..registry.catalog import hookimpl
from .resnet_small import ResnetSmall as ResnetSmall
from .timm_nets import Timm as Timm
from .vision import NETS


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [ResnetSmall, *NETS, Timm]
