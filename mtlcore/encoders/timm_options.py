"""Check the options of a timm network: arguments of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch

from ..errors import MtlError, nearest
from ..image_size import written

SET_ELSEWHERE = {
    "num_classes": "the heads are tables [task.<label>]",
    "in_chans": "images have three channels",
    "pretrained": "set weights",
    "checkpoint_path": "set weights",
    "pretrained_cfg": "set weights",
    "features_only": "the encoder returns all maps already",
}


def require_free(label: str, options: Mapping[str, object], size: tuple[int, int]) -> None:
    """Raise MtlError for an option that the encoder sets itself.

    size: (H, W) of the run's images.
    """
    for name in options:
        if name in SET_ELSEWHERE:
            raise MtlError(f"[encoder] {label}: options.{name} can't be set: {SET_ELSEWHERE[name]}")
    given = options.get("img_size", size)
    sides = tuple(given) if isinstance(given, list | tuple) else (given, given)
    if sides != size and not options.get("dynamic_img_size"):
        raise MtlError(
            f"[encoder] {label}: options.img_size = {given}, but input.size = {written(size)}: "
            "remove img_size, or set options.dynamic_img_size = true"
        )


def require_known(label: str, model: str, options: Mapping[str, object]) -> None:
    """Raise MtlError for an option that the constructor of the network does not have."""
    import timm

    with torch.device("meta"):
        cls = type(timm.create_model(model, num_classes=0))
    known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    for name in options:
        if name not in known:
            free = [each for each in known if each not in SET_ELSEWHERE]
            raise MtlError(
                f"[encoder] {label}: options.{name}: {cls.__name__} has no such argument; "
                f"{nearest(name, free)}"
            )
