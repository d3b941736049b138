"""The dataset `parquet`: a table with the images, or their paths, in a column.

A folder of parquet files, as the Hugging Face Hub stores datasets, is one table. Its column of
images is a struct {bytes, path}; columns of class numbers have their class names in the file.

Reading single rows is slow, since a parquet file is compressed in groups of rows. Data that does
not fit into memory should be packed first (`mtl data pack`), which reads every group once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
from attrs import field, frozen

from ..contracts import Index, Skipped
from ..errors import MtlError
from .images import decode_image, read_image
from .label_columns import read_map
from .table import Rows, Table, TableIndex

if TYPE_CHECKING:
    import pyarrow as pa

    from .parquet_files import ParquetFiles


@frozen
class Parquet(Table):
    """One row for each image, in a parquet file, or in all parquet files of a folder.

    file: the file, or the folder. In a folder, the names of files (`train-00000-of-00005.parquet`),
    or of the folders below, give the official splits.
    root: the folder that paths of images are relative to (default: the folder of the file).
    path: the column of images: bytes of image files, paths, or structs with both.
    columns: annotation -> its column, or a list of numeric columns that form one annotation (N, D).
    By default every other column is an annotation of its own name. Class numbers become the class
    names that the file holds.
    numeric: annotations that are numeric whatever their values look like.
    categorical: annotations that are categorical: 0, 1, 2 become class names.
    attributes: further columns to read, for `split`, `group` and metrics of subgroups (default: all
    of them).
    maps: name of a map -> its column, in the form of the column of images, but not JPEG.
    points: name of points -> its column of lists x y x y ... in pixels of the image, or a list of
    numeric columns [x, y, x, y, ...].
    """

    path: str = "image"

    def index(self) -> Index:
        from .parquet_files import ParquetFiles

        index = super().index()
        columns = {name: getattr(index, name) for name in attrs.fields_dict(TableIndex)}
        return ParquetIndex(**columns, files=ParquetFiles(self.file))

    def column_names(self) -> list[str]:
        from . import parquet_columns as parquet
        from .parquet_files import ParquetFiles

        used = {self.path, *self.maps.values(), *(self.attributes or ())}
        for own in [*self.points.values(), *self.columns.values()]:
            used |= {own} if isinstance(own, str) else set(own)
        schema = ParquetFiles(self.file).schema
        for column in (self.path, *self.maps.values()):
            self._require_column(column, "path", schema.names)
        return [
            field.name for field in schema if field.name in used or parquet.is_scalar(field.type)
        ]

    def read_columns(self, names: Sequence[str], skipped: Skipped) -> Rows:
        from . import parquet_columns as parquet
        from .parquet_files import ParquetFiles

        files = ParquetFiles(self.file)
        keys, has_images = parquet.keys_of(files, self.path)
        cells: dict[str, pa.ChunkedArray] = {self.path: keys}
        numbers: dict[str, np.ndarray] = {}
        for column in self.maps.values():
            cells[column] = parquet.map_names(files, column)
        classes = files.class_names()
        for name in [name for name in names if name not in cells]:
            column = files.column(name)
            if name in classes:
                cells[name] = parquet.named(column, classes[name])
                continue
            if parquet.is_number(column.type):
                numbers[name] = parquet.numbers_of(column, f"{self.file}: the column {name!r}")
            if parquet.is_scalar(column.type) and (
                name in self._texts() or not parquet.is_float(column.type)
            ):
                cells[name] = parquet.texts_of(column)
        unread = [name for name in files.schema.names if name not in self.column_names()]
        if unread:
            skipped.note(
                f"columns hold lists or other nested values: {', '.join(unread)}", len(unread)
            )
        return Rows(cells, np.arange(1, 1 + len(files)), numbers, files.split(), has_images)

    def image(self, index: TableIndex, i: int) -> np.ndarray:
        if not index.has_images:
            return super().image(index, i)
        data, path = self._cell(index, self.path, i)
        if data is None and path:
            return read_image(path, self._root)
        return decode_image(data or b"", f"{self.file}: {index.keys[i]}")

    def map(self, index: TableIndex, name: str, i: int) -> np.ndarray:
        data, path = self._cell(index, self.maps[name], i)
        if data is None:
            return self.map_file(name, path or "", int(index.rows[i]))
        return read_map(data, f"{self.file}: the map {name!r} of {index.keys[i]}")

    def map_file(self, name: str, path: str, row: int) -> np.ndarray:
        from . import parquet_columns as parquet
        from .parquet_files import ParquetFiles

        files = ParquetFiles(self.file)
        data, own_path = parquet.bytes_and_path(files.cell(self.maps[name], row))
        if data is None:
            return super().map_file(name, own_path or path, row)
        return read_map(data, f"{self.file}: the map {name!r} of row {row + 1}")

    def _cell(self, index: Index, column: str, i: int) -> tuple[bytes | None, str | None]:
        from . import parquet_columns as parquet

        if not isinstance(index, ParquetIndex):
            raise MtlError("parquet: `decode` needs the index that `index()` returned")
        return parquet.bytes_and_path(index.files.cell(column, int(index.rows[i])))

    def _texts(self) -> set[str]:
        """Return the columns of numbers that are also needed as text."""
        found = set(self.attributes or ())
        for name in self.categorical:
            own = self.columns.get(name, name)
            found |= {own} if isinstance(own, str) else set(own)
        return found


@frozen(eq=False)
class ParquetIndex(TableIndex):
    """The index of parquet files, with the files."""

    files: ParquetFiles = field(kw_only=True)
