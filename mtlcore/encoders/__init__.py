"""Encoders: networks from normalized images to features."""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .resnet_small import ResnetSmall as ResnetSmall
from .timm_nets import Timm as Timm
from .vision import NETS
from .vit_small import VitSmall as VitSmall


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [ResnetSmall, VitSmall, *NETS, Timm]
