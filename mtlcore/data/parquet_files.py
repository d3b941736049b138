"""Parquet files as one table of N rows, whose images are read by row group."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from itertools import pairwise
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
# Of a file name: train-00000-of-00005, or train-00000-of-00005-b42a775f407cee45 in older datasets.
_PART = re.compile(r"[-_.]?\d+(-of-\d+(-[0-9a-f]{8,})?)?$")


class ParquetFiles:
    """A parquet file, or all of them in a folder, in the order of their names.

    schema: the columns with a type that holds the values of all files: string for a dictionary of
    strings, int64 for int32 and int64. Where types contradict, that of the first file.

    Several threads may read. Raises MtlError if there is none, if one can't be read, or if one has
    a column twice or other columns than the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = _listed(path)
        metadata = [_metadata(file) for file in self.files]
        self._schemas = [found.schema.to_arrow_schema() for found in metadata]
        _require_same_names(self.files, self._schemas)
        self.schema: pa.Schema = _joined(self._schemas)
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
        """Return a whole column; `image.path` is one field of a column of structs.

        Raises MtlError if its types in two files contradict.
        """
        parts: list[pa.Table] = []
        for file, rows in zip(self.files, self.rows_of_file):
            part = _with_plain_columns(self._read(file, [name]))
            if not part.num_columns:  # the field of a column of type null
                part = _nulls(name.partition(".")[0], rows)
            parts.append(part)
        try:
            found = pa.concat_tables(parts, promote_options="permissive")
        except pa.ArrowException as error:
            raise self._contradiction(name, error) from error
        column = found.column(0)
        for field in name.split(".")[1:] if name not in found.column_names else ():
            column = pa.chunked_array([chunk.field(field) for chunk in column.chunks])
        return column

    def _contradiction(self, name: str, error: pa.ArrowException) -> MtlError:
        """Return the error for a column that can't be joined, with two files that contradict."""
        column = name if name in self.schema.names else name.partition(".")[0]
        fields = [schema.field(column) for schema in self._schemas]
        for later, earlier in ((i, k) for i in range(len(fields)) for k in range(i)):
            if _merged(_plain_field(fields[earlier]), _plain_field(fields[later])) is None:
                return MtlError(
                    f"parquet: {self.files[later]}: the column {column!r} is {fields[later].type}, "
                    f"but {fields[earlier].type} in {self.files[earlier]}; expected one type in "
                    "all files"
                )
        # Such as an integer that is too large for the floats of another file.
        return MtlError(f"parquet: {self.path}: the column {column!r} can't be read: {error}")

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
            names = [f"{self._short(file)}:{row}" for row in range(rows)]
            parts.append(pa.array(names, pa.string()))  # of an empty file, too
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
                    # In a file without values, the whole column may be of type null.
                    is_leaf = column.path_in_schema in (leaf, leaf.partition(".")[0])
                    if is_leaf and column.statistics is not None:
                        total += column.statistics.null_count or 0
        return total

    def split(self) -> Categories | None:
        """Return the official splits by the names of the files, or None if none has such a name.

        The name of a single file that is not in a folder says nothing.
        """
        if self.files == [self.path]:
            return None
        found: list[str] = []
        for file in self.files:
            names = [_PART.sub("", file.stem), file.parent.name]
            found.append(next((split for name in names if (split := split_name(name))), ""))
        if not any(found):
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


def _require_same_names(files: list[Path], schemas: list[pa.Schema]) -> None:
    """Raise MtlError if a file has a column twice, or other columns than the first."""
    for file, schema in zip(files, schemas):
        repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if repeated:
            raise MtlError(f"parquet: {file} has the column {repeated[0]!r} more than once")
        if schema.names != schemas[0].names:
            raise MtlError(f"parquet: {file} has other columns than {files[0]}")


def _joined(schemas: list[pa.Schema]) -> pa.Schema:
    """Return the types that hold the values of all files, as `ParquetFiles.schema`."""
    # Writers choose the types of each file from its values: pandas writes a column without values
    # as null, and polars as large_string what others write as string.
    fields = [_plain_field(field) for field in schemas[0]]
    for before, schema in pairwise(schemas):
        if not schema.equals(before):
            for i, field in enumerate(schema):
                fields[i] = _merged(fields[i], _plain_field(field)) or fields[i]
    return pa.schema(fields, schemas[0].metadata)


def _merged(one: pa.Field, other: pa.Field) -> pa.Field | None:
    """Return a field that holds the values of both, None if their types contradict."""
    schemas = [pa.schema([one]), pa.schema([other])]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0)
    except pa.ArrowException:
        return None


def _plain_field(field: pa.Field) -> pa.Field:
    """Return a field with the type of its values: string for a dictionary of strings."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string_view(kind):
        kind = pa.string()
    return pa.field(field.name, kind)


def _with_plain_columns(table: pa.Table) -> pa.Table:
    """Return a table whose columns have the types of `_plain_field`."""
    return table.cast(pa.schema([_plain_field(field) for field in table.schema]))


def _nulls(name: str, rows: int) -> pa.Table:
    return pa.table({name: pa.nulls(rows)})


def _metadata(file: Path) -> pq.FileMetaData:
    try:
        with open_file(file):  # a regular file
            return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise MtlError(f"parquet: {file} can't be read: {reason}") from error
