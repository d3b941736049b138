"""Tasks on a user's own labels: no Python needed."""

from __future__ import annotations

from ..contracts import Component
from ..registry.catalog import hookimpl
from .classification import Classification as Classification
from .multilabel import Multilabel as Multilabel
from .regression import Regression as Regression


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [Classification, Multilabel, Regression]
