"""`csv`: a user's own table, one row an image: a column with its path, and columns with its labels.

A label column whose values are all numbers is numeric, any other holds categories. Every column can also be named as
the `split` or `group` of the [data.<label>] table. Commas, semicolons and tabs are told apart by the header.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from attrs import field, frozen

from ..contracts import Annotation, Dataset, Index, Skipped
from ..errors import MtlError, nearest
from .images import read_image

_Table = dict[str, list[str]]  # column -> its cells, stripped


@frozen
class Csv(Dataset):
    """One row an image.

    file: the table, with a header. root: the folder that its paths are below (default: the file's own). path: the column
    of paths. columns: annotation -> its column, or several numeric columns, which become one annotation (N, D); by
    default every other column is an annotation of its own name. numeric, categorical: annotations that are so, whatever
    their values look like: a text in a numeric one makes the row a bad one; 0, 1, 2 become class names.
    """

    file: Path
    root: Path | None = None
    path: str = "path"
    columns: dict[str, str | tuple[str, ...]] = field(factory=dict)
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    def index(self) -> Index:
        skipped = Skipped()
        table = _read(self.file, skipped)
        wanted = self._wanted(table)
        numeric = {name: self._is_numeric(name, names, table) for name, names in wanted.items()}
        parsed = {
            c: _numbers(table[c]) for name, names in wanted.items() if numeric[name] for c in names
        }
        rows = self._good_rows(table, parsed, skipped)
        annotations = {
            name: _numeric([parsed[c][rows] for c in names], self.columns.get(name))
            if numeric[name]
            else _column(table[names[0]], rows)
            for name, names in wanted.items()
        }
        others = {name: _column(cells, rows) for name, cells in table.items() if name != self.path}
        return Index(
            _column(table[self.path], rows), annotations, attributes=others, skipped=skipped
        )

    def decode(self, index: Index, row: int) -> np.ndarray:
        path = str(index.keys[row])
        if not _is_below(os.path.realpath(self._root), os.path.realpath(self._root / path)):
            raise MtlError(f"{path!r} leads out of {self._root}: an image must lie below the root")
        return read_image(path, self._root)

    @property
    def _root(self) -> Path:
        return self.file.parent if self.root is None else self.root

    def _wanted(self, table: _Table) -> dict[str, tuple[str, ...]]:
        """annotation -> its columns. Raises MtlError where one is not in the table."""
        own: Mapping[str, str | tuple[str, ...]] = self.columns or {
            name: name for name in table if name != self.path
        }
        wanted = {name: (c,) if isinstance(c, str) else tuple(c) for name, c in own.items()}
        for where, column in [
            ("path", self.path),
            *((f"columns.{n}", c) for n, cs in wanted.items() for c in cs),
        ]:
            if column not in table:
                raise MtlError(
                    f"csv: {self.file} has no column {column!r} ({where}); {nearest(column, table)}"
                )
        for key in ("numeric", "categorical"):
            for name in getattr(self, key):
                if name not in wanted:
                    raise MtlError(
                        f"csv: {key} names {name!r}, which is no annotation; {nearest(name, wanted)}"
                    )
        return wanted

    def _is_numeric(self, name: str, columns: tuple[str, ...], table: _Table) -> bool:
        if name in self.numeric and name in self.categorical:
            raise MtlError(f"csv: {name!r} stands in numeric and in categorical: keep one of them")
        listed = not isinstance(self.columns.get(name, ""), str)
        if listed and name in self.categorical:
            raise MtlError(
                f"csv: columns.{name} is a list, which makes it numeric: take it out of categorical"
            )
        if listed or name in self.numeric:
            return True
        cells = [cell for cell in table[columns[0]] if cell]
        return (
            name not in self.categorical and bool(cells) and all(_is_number(cell) for cell in cells)
        )

    def _good_rows(
        self, table: _Table, parsed: Mapping[str, np.ndarray], skipped: Skipped
    ) -> np.ndarray:
        good: list[int] = []
        seen: set[str] = set()
        bad = {c: np.isinf(values) for c, values in parsed.items()}
        for row, path in enumerate(table[self.path]):
            wrong = next((c for c, flags in bad.items() if flags[row]), None)
            if reason := _fault_of_path(path, self._root, seen):
                skipped.add(reason, path or f"row {row + 1}")
            elif wrong is not None:
                skipped.add(
                    f"no number in the column {wrong!r}", f"{path} ({table[wrong][row][:20]!r})"
                )
            else:
                seen.add(path)
                good.append(row)
        return np.array(good, dtype=np.int64)


# ------------------------------------------------------------------------------------------------ cells


def _column(cells: list[str], rows: np.ndarray) -> np.ndarray:
    return np.array([cells[row] for row in rows], dtype=str)


def _numeric(columns: list[np.ndarray], given: str | tuple[str, ...] | None) -> Annotation:
    """(N,) of one column, (N, D) of a list; a row that lacks one of its numbers lacks all."""
    if given is None or isinstance(given, str):
        return columns[0]
    values = np.stack(columns, 1)
    return np.where(np.isnan(values).any(1, keepdims=True), np.nan, values)


def _numbers(cells: list[str]) -> np.ndarray:
    """(N,) float64: NaN where empty, infinite where there is no number: a row that is to be left out."""
    return np.array([_number(cell) for cell in cells], dtype=np.float64)


def _number(cell: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.inf


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _fault_of_path(path: str, root: Path, seen: set[str]) -> str | None:
    if not path:
        return "no path"
    if "\0" in path or not _is_below(os.path.normpath(root), os.path.normpath(root / path)):
        return f"a path that leads out of {root}"
    return "listed twice" if path in seen else None


def _is_below(root: str, full: str) -> bool:
    """Does `full` lie below the root? Neither holds dots (nor links, where those are to count)."""
    return full.startswith(root.rstrip(os.sep) + os.sep)


# ------------------------------------------------------------------------------------------------ the file


def _read(path: Path, skipped: Skipped) -> _Table:
    """The columns of a file; rows that are too short are counted."""
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(1 << 16)
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count))
            names = _names(path, next(reader, []))
            rows = list(_rows(reader, len(names), skipped))
    except OSError as error:
        raise MtlError(f"csv: {path} can't be read: {error.strerror}") from error
    except csv.Error as error:
        raise MtlError(f"csv: {path} is no csv file: line {reader.line_num}: {error}") from error
    return {name: [row[place].strip() for row in rows] for place, name in enumerate(names) if name}


def _names(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise MtlError(f"csv: {path} has the column {twice[0]!r} more than once")
    if not any(names):
        raise MtlError(f"csv: {path} must open with a line of column names")
    return names


def _rows(reader: Iterable[list[str]], width: int, skipped: Skipped) -> Iterable[list[str]]:
    for number, cells in enumerate(reader, 1):
        if len(cells) == width:
            yield cells
        elif cells:  # an empty line is no row
            skipped.add(f"not {width} columns", f"row {number}")
