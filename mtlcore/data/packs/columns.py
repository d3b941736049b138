"""index.parquet: the index of a pack, one column each for keys, labels, split and so on.

The name of a column begins with its kind: `key`, `split`, `group`, `annotation/<name>`,
`attribute/<name>`, `present/<name>` of a map or points, `length`, `crc32`, and `unreadable`, the
message of a sample whose image can't be read.

Strings are stored as bytes if they are not UTF-8, as names of files may be.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from attrs import field, frozen

from ...contracts import Categories, Column, Index, MapColumn, PointColumn, Skipped
from ...contracts.texts import Texts
from ...errors import MtlError
from ..aligned import columns_of
from .manifest import AGAIN, Plan

if TYPE_CHECKING:
    import pyarrow as pa

SHA256 = "sha256"
SHAPE = "shape "  # of an annotation of numbers (N, ...), in the metadata of the file


@frozen(eq=False)
class Records:
    """Where the records of n samples are.

    length: (n,) int64, in bytes, 0 for a sample that can't be read. crc32: (n,) uint32.
    unreadable: position -> the message.
    """

    length: np.ndarray
    crc32: np.ndarray
    unreadable: dict[int, str] = field(factory=dict)

    @classmethod
    def join(cls, parts: Sequence[Records]) -> Records:
        """Return the records of several shards, one after the other."""
        unreadable: dict[int, str] = {}
        start = 0
        for part in parts:
            unreadable |= {start + i: message for i, message in part.unreadable.items()}
            start += len(part.length)
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(part.length for part in parts)]),
            np.concatenate([np.zeros(0, np.uint32), *(part.crc32 for part in parts)]),
            unreadable,
        )


def to_parquet(index: Index, records: Records) -> bytes:
    """Return index.parquet."""
    import pyarrow as pa

    columns: dict[str, Any] = {"key": _text_array(index.keys)}
    shapes: dict[str, str] = {}
    for name, values in index.annotations.items():
        if isinstance(values, Categories):
            columns[f"annotation/{name}"] = _coded_array(values)
            continue
        columns[f"annotation/{name}"] = _number_array(values)
        if values.ndim > 1:
            shapes[SHAPE + name] = " ".join(map(str, values.shape[1:]))
    for name, attribute in index.attributes.items():
        columns[f"attribute/{name}"] = _coded_array(attribute)
    for name, official in (("split", index.split), ("group", index.group)):
        if official is not None:
            columns[name] = _coded_array(official)
    for name, of_pixels in columns_of(index).items():
        columns[f"present/{name}"] = pa.array(of_pixels.present)
    columns |= _record_columns(records)
    return _written(pa.table(columns).replace_schema_metadata(shapes))


def from_parquet(data: bytes, plan: Plan, where: str) -> tuple[Index, Records]:
    """Return the index of a pack, and where its records are. Raises MtlError for a damaged file."""
    import pyarrow as pa

    try:
        columns = _Columns(data)
        found = _index(columns, plan), _records(columns)
        pa.default_memory_pool().release_unused()
        return found
    except (pa.ArrowException, LookupError, ValueError, OSError) as error:
        raise MtlError(f"{where} is damaged: {error}: {AGAIN}") from error


def shard_to_parquet(records: Records, sha256: str) -> bytes:
    """Return the records of one shard, and the checksum of its file, as a parquet file."""
    import pyarrow as pa

    table = pa.table(_record_columns(records))
    return _written(table.replace_schema_metadata({SHA256: sha256}))


def shard_from_parquet(data: bytes) -> tuple[Records, str]:
    """Return what `shard_to_parquet` was given. Raises an error of pyarrow for other bytes."""
    columns = _Columns(data)
    return _records(columns), columns.metadata[SHA256]


def _written(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


# ------------------------------------------------------------ to Arrow


def _text_array(texts: Texts) -> pa.Array:
    """Return N strings without creating Python strings."""
    import pyarrow as pa

    buffers = [None, pa.py_buffer(texts.starts.astype(np.int64)), pa.py_buffer(texts.buffer)]
    array = pa.Array.from_buffers(pa.large_string(), len(texts), buffers)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:  # not UTF-8
        return pa.Array.from_buffers(pa.large_binary(), len(texts), buffers)
    return array


def _coded_array(values: Categories) -> pa.Array:
    import pyarrow as pa

    codes = pa.array(values.codes.astype(np.int32))
    return pa.DictionaryArray.from_arrays(codes, _text_array(values.names))


def _number_array(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values)
    width = int(np.prod(values.shape[1:]))
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, width)


def _record_columns(records: Records) -> dict[str, Any]:
    import pyarrow as pa

    messages = [records.unreadable.get(i) for i in range(len(records.length))]
    return {
        "length": pa.array(records.length.astype(np.int32)),
        "crc32": pa.array(records.crc32.astype(np.uint32)),
        "unreadable": pa.array(messages, pa.string()),
    }


# ------------------------------------------------------------ from Arrow


class _Columns:
    """The columns of a parquet file by name. One at a time is in memory as an Arrow array."""

    def __init__(self, data: bytes) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(pa.BufferReader(data))
        schema = self._file.schema_arrow
        self.names: list[str] = schema.names
        found = (schema.metadata or {}).items()
        self.metadata = {key.decode(): text.decode() for key, text in found}

    def __getitem__(self, name: str) -> pa.Array:
        """Return a column. Raises KeyError if it is absent."""
        column = self._file.read([name], use_threads=False)[name]
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _index(table: _Columns, plan: Plan) -> Index:
    shapes = table.metadata
    annotations: dict[str, Column] = {}
    attributes: dict[str, Categories] = {}
    present: dict[str, np.ndarray] = {}
    for name in table.names:
        kind, _, label = name.partition("/")
        if kind == "annotation":
            annotations[label] = _column(table[name], shapes.get(SHAPE + label, ""))
        elif kind == "attribute":
            attributes[label] = _categories(table[name])
        elif kind == "present":
            present[label] = _numbers(table[name])
    official: dict[str, Categories | None] = {"split": None, "group": None}
    for name in official:
        if name in table.names:
            official[name] = _categories(table[name])
    return Index(
        _texts(table["key"]),
        annotations,
        split=official["split"],
        group=official["group"],
        attributes=attributes,
        skipped=Skipped({k: list(v) for k, v in plan.skipped.items()}, dict(plan.notes)),
        maps={name: MapColumn(present[name], *form) for name, form in plan.maps.items()},
        points={name: PointColumn(present[name], count) for name, count in plan.points.items()},
    )


def _records(table: _Columns) -> Records:
    messages = table["unreadable"]
    positions: list[int] = []
    if messages.null_count < len(messages):
        positions = np.flatnonzero(_numbers(messages.is_valid())).tolist()
    return Records(
        _numbers(table["length"]).astype(np.int64),
        _numbers(table["crc32"]),
        {i: messages[i].as_py() for i in positions},
    )


def _column(column: pa.Array, shape: str) -> Column:
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        if _is_text(column.type):
            return _categories(column)
        return _numbers(column)
    sides = [int(side) for side in shape.split()]
    return _numbers(column.flatten()).reshape(len(column), *sides)


def _numbers(array: pa.Array) -> np.ndarray:
    """Return a copy of Arrow numbers. `to_numpy` would import pandas, which takes a second."""
    import pyarrow as pa

    dtype = np.dtype(array.type.to_pandas_dtype())
    if pa.types.is_boolean(array.type):  # one bit each
        array = array.cast(pa.uint8())
    if not len(array):
        return np.zeros(0, dtype)
    _, numbers = array.buffers()
    return np.frombuffer(numbers, dtype)[array.offset : array.offset + len(array)].copy()


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_dictionary(kind) or not pa.types.is_primitive(kind)


def _categories(column: pa.Array) -> Categories:
    coded = column.dictionary_encode()
    return Categories(_numbers(coded.indices), _texts(coded.dictionary))


def _texts(array: pa.Array) -> Texts:
    """Return Arrow strings or bytes, as they are, in one buffer."""
    import pyarrow as pa

    array = array.cast(pa.large_binary())
    _, offsets, content = array.buffers()
    starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.zeros(0, np.uint8) if content is None else np.frombuffer(content, np.uint8)
    return Texts(data[starts[0] : starts[-1]], starts - starts[0])
