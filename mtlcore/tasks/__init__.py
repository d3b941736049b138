"""Tasks for a user's own labels. They need no Python code, only a configuration."""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .classification import Classification as Classification
from .dense import DenseRegression, Landmarks, Segmentation, SurfaceNormals
from .multilabel import Multilabel as Multilabel
from .regression import Regression as Regression


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [
        Classification,
        Multilabel,
        Regression,
        Segmentation,
        DenseRegression,
        SurfaceNormals,
        Landmarks,
    ]
