"""Parquet files as one table of N rows, whose images are read by row group."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..contracts import Categories
from ..errors import MtlError
from ..files import is_folder, open_file
from .split_names import split_name

KEPT_GROUPS = 16  # row groups of images that stay in memory: two for each thread that decodes
KEPT_BYTES = 2 * 10**9  # of these groups, if there are several
_PART = re.compile(r"[-_.]?\d+(-of-\d+)?$")  # of a file name: train-00000-of-00005


class ParquetFiles:
    """A parquet file, or all of them in a folder, in the order of their names.

    Several threads may read. Raises MtlError if there is none, if one can't be read, or if one has
    other columns than the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = _listed(path)
        metadata = [_metadata(file) for file in self.files]
        self.schema: pa.Schema = metadata[0].schema.to_arrow_schema()
        for file, found in zip(self.files, metadata):
            if found.schema.to_arrow_schema().names != self.schema.names:
                raise MtlError(f"parquet: {file} has other columns than {self.files[0]}")
        groups: list[tuple[int, int, int]] = []  # file, row group, rows
        for number, of_file in enumerate(metadata):
            for group in range(of_file.num_row_groups):
                groups.append((number, group, of_file.row_group(group).num_rows))
        self._groups = groups
        self._stops = np.cumsum([rows for _, _, rows in groups])
        self.rows_of_file = [of_file.num_rows for of_file in metadata]
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], pa.ChunkedArray] = OrderedDict()

    def __reduce__(self) -> tuple[type[ParquetFiles], tuple[Path]]:
        return ParquetFiles, (self.path,)

    def __len__(self) -> int:
        return sum(self.rows_of_file)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a whole column; `image.path` is one field of a column of structs."""
        parts = [self._read(file, [name]) for file in self.files]
        found = pa.concat_tables(parts)
        column = found.column(0)
        for field in name.split(".")[1:] if name not in found.column_names else ():
            column = pa.chunked_array([chunk.field(field) for chunk in column.chunks])
        return column

    def is_valid(self, name: str) -> pa.Array:
        """Return which cells of a column are not null, (N,) bool, one file at a time."""
        parts: list[pa.Array] = []
        for file in self.files:
            column = self._read(file, [name]).column(0)
            for chunk in column.chunks:
                leaf = chunk.field("bytes") if pa.types.is_struct(chunk.type) else chunk
                parts.append(leaf.is_valid())
        return pa.concat_arrays(parts)

    def cell(self, name: str, row: int) -> Any:
        """Return one cell as a Python value. Its row group stays in memory for a while."""
        group = int(np.searchsorted(self._stops, row, side="right"))
        file, of_file, rows = self._groups[group]
        with self._lock:
            column = self._kept.get((group, name))
            if column is None:
                column = self._read(self.files[file], [name], of_file).column(0)
                self._kept[group, name] = column
                self._forget_some()
            self._kept.move_to_end((group, name))
        return column[row - int(self._stops[group]) + rows].as_py()

    def _forget_some(self) -> None:
        """Drop the groups that were not used for the longest time."""
        n_bytes = sum(column.nbytes for column in self._kept.values())
        while len(self._kept) > KEPT_GROUPS or (n_bytes > KEPT_BYTES and len(self._kept) > 1):
            n_bytes -= self._kept.popitem(last=False)[1].nbytes

    def names(self) -> pa.ChunkedArray:
        """Return the names of all rows."""
        parts: list[pa.Array] = []
        for file, rows in zip(self.files, self.rows_of_file):
            parts.append(pa.array([f"{self._short(file)}:{row}" for row in range(rows)]))
        return pa.chunked_array(parts, pa.string())

    def nulls(self, leaf: str) -> int:
        """Return the number of null values of a leaf such as `image.bytes`, from the statistics.

        A row group without statistics counts as having none.
        """
        total = 0
        for file in self.files:
            metadata = _metadata(file)
            for group in range(metadata.num_row_groups):
                of_group = metadata.row_group(group)
                for number in range(of_group.num_columns):
                    column = of_group.column(number)
                    if column.path_in_schema == leaf and column.statistics is not None:
                        total += column.statistics.null_count or 0
        return total

    def split(self) -> Categories | None:
        """Return the official splits by the names of the files, or None if none has such a name."""
        found: list[str] = []
        for file in self.files:
            names = [_PART.sub("", file.stem)]
            if file != self.path:
                names.append(file.parent.name)
            found.append(next((split for name in names if (split := split_name(name))), ""))
        if not any(found) or len(self.files) == 1:
            return None
        return Categories.of(np.repeat(np.array(found), self.rows_of_file))

    def class_names(self) -> dict[str, list[str]]:
        """Return column -> its class names, where the file was written by `datasets`."""
        text = (self.schema.metadata or {}).get(b"huggingface")
        try:
            features = json.loads(text)["info"]["features"] if text else {}
        except (ValueError, LookupError, TypeError):
            return {}
        found: dict[str, list[str]] = {}
        for column, feature in features.items():
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                found[column] = [str(name) for name in feature.get("names", [])]
        return found

    def _short(self, file: Path) -> str:
        return file.name if file == self.path else file.relative_to(self.path).as_posix()

    def _read(self, file: Path, columns: list[str], group: int | None = None) -> pa.Table:
        try:
            with pq.ParquetFile(file) as opened:
                if group is None:
                    return opened.read(columns, use_threads=False)
                return opened.read_row_group(group, columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise MtlError(f"parquet: {file} can't be read: {error}") from error


def _listed(path: Path) -> list[Path]:
    if not is_folder(path):
        return [path]
    found = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith("."))
    if not found:
        raise MtlError(f"parquet: {path} holds no file whose name ends in .parquet")
    return found


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        with open_file(file):  # a regular file
            return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise MtlError(f"parquet: {file} can't be read: {reason}") from error
