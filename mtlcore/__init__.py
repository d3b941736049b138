"""mtlcore: supervised tasks and self-supervised pretext tasks on one shared encoder.

These are the public names of a plugin author. They load when first used, so that `mtl --help` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .authoring.predict_transform import predict_transform as predict_transform
    from .contracts import Annotation as Annotation
    from .contracts import Augmentation as Augmentation
    from .contracts import AugmentedBatch as AugmentedBatch
    from .contracts import Batch as Batch
    from .contracts import BuildContext as BuildContext
    from .contracts import Callback as Callback
    from .contracts import CallbackContext as CallbackContext
    from .contracts import Dataset as Dataset
    from .contracts import Encoder as Encoder
    from .contracts import EncoderInfo as EncoderInfo
    from .contracts import Features as Features
    from .contracts import Head as Head
    from .contracts import Index as Index
    from .contracts import LossWeighting as LossWeighting
    from .contracts import PretextTask as PretextTask
    from .contracts import Skipped as Skipped
    from .contracts import StepCounts as StepCounts
    from .contracts import StepLosses as StepLosses
    from .contracts import SupervisedTask as SupervisedTask
    from .contracts import Target as Target
    from .contracts import View as View
    from .data.images import read_image as read_image
    from .errors import MtlError as MtlError
    from .errors import nearest as nearest
    from .geometry import Geometry as Geometry
    from .geometry import orthogonal as orthogonal
    from .networks import EMA as EMA
    from .networks import FrozenModule as FrozenModule
    from .networks import SharedHead as SharedHead
    from .networks import gather as gather
    from .registry.catalog import hookimpl as hookimpl
    from .rng import Rng as Rng
    from .tasks.classification import Classification as Classification
    from .tasks.multilabel import Multilabel as Multilabel
    from .tasks.regression import Regression as Regression

__version__ = "0.1.0"

_HOME = {
    "contracts": "Annotation Augmentation Batch Dataset Encoder EncoderInfo Features Head BuildContext Index LossWeighting "
    "Callback PretextTask CallbackContext AugmentedBatch Skipped StepCounts StepLosses SupervisedTask Target View",
    "data.images": "read_image",
    "errors": "MtlError nearest",
    "geometry": "Geometry orthogonal",
    "networks": "EMA SharedHead FrozenModule gather",
    "registry.catalog": "hookimpl",
    "rng": "Rng",
    "tasks.classification": "Classification",
    "tasks.multilabel": "Multilabel",
    "tasks.regression": "Regression",
    "authoring.predict_transform": "predict_transform",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}
__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'mtlcore' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mtlcore.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
