"""The datasets of a user's own images, as a plugin like any other."""

from __future__ import annotations

from ..contracts import Component
from ..registry.catalog import hookimpl
from .csv_table import Csv
from .folder import ImageFolder


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [ImageFolder, Csv]
