"""The built-in datasets for a user's own images, registered like those of any plugin."""

from __future__ import annotations

from ..contracts import Component
from ..registry.hooks import hookimpl
from .csv_table import Csv
from .folder import ImageFolder
from .image_mask import ImageMask
from .packed import Packed
from .parquet import Parquet
from .prepared_npy import PreparedNpy


@hookimpl
def mtl_components() -> list[type[Component]]:
    return [ImageFolder, ImageMask, Csv, Packed, Parquet, PreparedNpy]
