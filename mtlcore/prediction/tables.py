"""Tables of predictions: csv and parquet files that grow row by row.

An interrupted prediction leaves a valid file with all rows that were written.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..files import write_errors_as_mtl_error

ROWS_AT_A_TIME = 1024  # in a row group of a parquet file

Row = dict[str, object]

WriteRow = Callable[[Row], object]
"""Adds one row to a table."""


@contextmanager
def csv_table(path: Path, columns: Sequence[str]) -> Iterator[WriteRow]:
    """Write a csv file with these columns. Values that a row lacks become empty cells.

    Numbers have full precision. Raises MtlError if the file can't be written.
    """
    with (
        write_errors_as_mtl_error(path),
        path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        yield writer.writerow


@contextmanager
def parquet_table(path: Path, columns: Mapping[str, type]) -> Iterator[WriteRow]:
    """Write a parquet file with these columns of str, int or float.

    Raises MtlError if the file can't be written.
    """
    import pyarrow.parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    waiting: list[Row] = []

    with write_errors_as_mtl_error(path), pyarrow.parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pyarrow.Table.from_pylist(waiting, schema))
                waiting.clear()

        def add(row: Row) -> None:
            waiting.append({name: _text(value) for name, value in row.items()})
            if len(waiting) == ROWS_AT_A_TIME:
                flush()

        try:
            yield add
        finally:
            flush()


def _text(value: object) -> object:
    """Return a value with names that are not UTF-8 escaped: parquet holds no other texts."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "backslashreplace").decode()
