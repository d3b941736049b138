"""Columns of parquet files as keys, texts and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from ..errors import MtlError

if TYPE_CHECKING:
    from .parquet_files import ParquetFiles


def is_float(kind: pa.DataType) -> bool:
    """Return whether these are floats."""
    return bool(kinds.is_floating(kind))


def is_scalar(kind: pa.DataType) -> bool:
    """Return whether these are numbers, texts, or anything that can be written as text."""
    is_text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
    if kinds.is_dictionary(kind):
        return is_scalar(kind.value_type)
    is_plain = kinds.is_primitive(kind) or kinds.is_decimal(kind) or kinds.is_null(kind)
    return bool(is_text or is_plain)


def is_number(kind: pa.DataType) -> bool:
    """Return whether these are numbers, or lists of numbers at any depth."""
    while is_list(kind):
        kind = kind.value_type
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def is_list(kind: pa.DataType) -> bool:
    """Return whether these are lists."""
    lists = kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list
    return any(is_kind(kind) for is_kind in lists)


def keys_of(files: ParquetFiles, column: str) -> tuple[pa.ChunkedArray, bool]:
    """Return the names of the images in a column, (N,) strings, and whether it holds their bytes.

    A column of texts holds paths. Images in the file are named by their own path if all of them
    have one and none repeats, and by file and row otherwise. Raises MtlError for another type.
    """
    kind = files.schema.field(column).type
    if is_scalar(kind) and not kinds.is_primitive(kind):
        return texts_of(files.column(column)), False
    if kinds.is_binary(kind) or kinds.is_large_binary(kind):
        return files.names(), True
    fields = {kind.field(i).name for i in range(kind.num_fields)} if kinds.is_struct(kind) else ()
    if "bytes" not in fields or "path" not in fields:
        raise MtlError(
            f"parquet: {files.path}: the column {column!r} is {kind}; expected bytes of images, "
            "paths, or structs {bytes, path}"
        )
    paths = texts_of(files.column(f"{column}.path"))
    if files.nulls(f"{column}.bytes") == len(files):
        return paths, False
    is_unique = len(paths.unique()) == len(paths) and not pc.any(pc.equal(paths, "")).as_py()
    return (paths if is_unique else files.names()), True


def map_names(files: ParquetFiles, column: str) -> pa.ChunkedArray:
    """Return the names of the maps in a column, as `keys_of` does, and "" where there is none."""
    names, has_bytes = keys_of(files, column)
    leaf = f"{column}.bytes" if kinds.is_struct(files.schema.field(column).type) else column
    if not has_bytes or not files.nulls(leaf):
        return names
    return pc.if_else(pa.chunked_array([files.is_valid(leaf)]), names.cast(pa.large_string()), "")


def bytes_and_path(cell: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes and the path of one image; None for what is absent."""
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return (cell, None) if isinstance(cell, bytes) else (None, cell)


def texts_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as strings, "" for null."""
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column.cast(pa.large_string()), "")


def named(column: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    """Return class numbers as class names. null and numbers without a name, such as -1, are ""."""
    known = pc.and_(pc.greater_equal(column, 0), pc.less(column, len(names)))
    positions = pc.if_else(known, column, None).cast(pa.int64())  # null has no `take`
    found = pa.chunked_array([pa.array(names, pa.large_string())]).take(positions)
    return pc.fill_null(found, "")


def numbers_of(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """Return numbers (N,), or lists of one length (N, D), as float64. null is NaN.

    Raises MtlError for lists of different lengths.
    """
    if not is_list(column.type):
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
    n = len(column)
    present = pc.is_valid(column).to_numpy()
    array = column.filter(pc.is_valid(column)).combine_chunks()
    width = 1
    while is_list(array.type):
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        if len(lengths) and (lengths != lengths[0]).any():
            raise MtlError(f"parquet: {where} has lists of different lengths; expected one length")
        width *= int(lengths[0]) if len(lengths) else 1
        array = array.flatten()
    found = np.full((n, width), np.nan)
    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    found[present] = values.reshape(-1, width)
    return found
