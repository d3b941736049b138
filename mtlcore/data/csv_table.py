"""The dataset `csv`: a user's own table with one row for each image.

One column holds the path of the image, the others hold labels. A label column is numeric if all its
values are numbers, and categorical otherwise. Every column can also be the `split` or the `group`
of the [data.<label>] table. The delimiter is the comma, semicolon or tab that is most frequent in
the header.
"""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from attrs import field, frozen

from ..contracts import Categories, Column, Dataset, Index, Sample, Skipped
from ..contracts.columns import numbered
from ..errors import MtlError, nearest
from .images import is_below, read_image

_Table = dict[str, Categories]  # column -> its cells, stripped
_Columns = dict[str, tuple[str, ...]]  # annotation -> its columns

HEADER_BYTES = 1 << 16  # a longer first line is cut before the delimiter is detected
SHOWN_CHARACTERS = 20  # of a cell in a message


@frozen
class Csv(Dataset):
    """One row for each image.

    file: the table, with a header line.
    root: the folder that the paths are relative to (default: the folder of the table).
    path: the column of paths.
    columns: annotation -> its column, or a list of numeric columns that form one annotation (N, D).
    By default every other column is an annotation of its own name.
    numeric: annotations that are numeric whatever their values look like. A row with a text in one
    of them is skipped as malformed.
    categorical: annotations that are categorical whatever their values look like: 0, 1, 2 become
    class names.
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
        columns = self._columns_by_annotation(table)

        is_numeric = {name: self._is_numeric(name, cs, table) for name, cs in columns.items()}
        parsed: dict[str, np.ndarray] = {}
        for name, cs in columns.items():
            if is_numeric[name]:
                parsed |= {c: _numbers(table[c]) for c in cs}
        rows = self._valid_rows(table, parsed, skipped)

        annotations: dict[str, Column] = {}
        for name, cs in columns.items():
            if is_numeric[name]:
                is_list = not isinstance(self.columns.get(name, ""), str)
                annotations[name] = _join_numeric([parsed[c][rows] for c in cs], is_list)
            else:
                annotations[name] = table[cs[0]][rows]
        attributes = {name: cells[rows] for name, cells in table.items() if name != self.path}
        keys = table[self.path][rows]
        return Index(keys, annotations, attributes=attributes, skipped=skipped)

    def decode(self, index: Index, i: int) -> Sample:
        path = str(index.keys[i])
        # realpath: unlike other datasets, symbolic links may not leave the root either.
        if not is_below(os.path.realpath(self._root), os.path.realpath(self._root / path)):
            raise MtlError(f"{path!r} leads out of {self._root}: an image must be inside the root")
        return Sample(read_image(path, self._root))

    @property
    def _root(self) -> Path:
        return self.file.parent if self.root is None else self.root

    def _columns_by_annotation(self, table: _Table) -> _Columns:
        """Return annotation -> its columns. Raises MtlError for an unknown name."""
        configured: Mapping[str, str | tuple[str, ...]] = self.columns
        if not configured:
            configured = {name: name for name in table if name != self.path}
        columns: _Columns = {}
        for name, own in configured.items():
            columns[name] = (own,) if isinstance(own, str) else tuple(own)

        self._require_column(self.path, "path", table)
        for name, cs in columns.items():
            for column in cs:
                self._require_column(column, f"columns.{name}", table)
        for key in ("numeric", "categorical"):
            for name in getattr(self, key):
                if name not in columns:
                    hint = nearest(name, columns)
                    raise MtlError(f"csv: {key} lists {name!r}, which is not an annotation; {hint}")
        return columns

    def _require_column(
        self,
        column: str,
        key: str,
        table: _Table,
    ) -> None:
        """Raise MtlError if the table has no such column. key: where the configuration names it."""
        if column not in table:
            hint = nearest(column, table)
            raise MtlError(f"csv: {self.file} has no column {column!r} ({key}); {hint}")

    def _is_numeric(
        self,
        name: str,
        columns: tuple[str, ...],
        table: _Table,
    ) -> bool:
        """Return whether an annotation is numeric. Raises MtlError if the keys contradict."""
        if name in self.numeric and name in self.categorical:
            raise MtlError(f"csv: {name!r} is in numeric and in categorical: keep one of them")
        is_list = not isinstance(self.columns.get(name, ""), str)
        if is_list and name in self.categorical:
            raise MtlError(
                f"csv: columns.{name} is a list, which makes it numeric: remove it from categorical"
            )
        if is_list or name in self.numeric:
            return True
        if name in self.categorical:
            return False
        cells = [cell for cell in table[columns[0]].used() if cell]
        return bool(cells) and all(_is_number(cell) for cell in cells)

    def _valid_rows(
        self,
        table: _Table,
        parsed: Mapping[str, np.ndarray],
        skipped: Skipped,
    ) -> np.ndarray:
        """Return the numbers of the valid rows (n,), and add the others to `skipped`.

        parsed: the numeric columns; infinite values mark cells that are not numbers.
        """
        malformed = {column: np.isinf(values) for column, values in parsed.items()}
        valid: list[int] = []
        seen: set[str] = set()
        for row, path in enumerate(table[self.path]):
            column = next((c for c, flags in malformed.items() if flags[row]), None)
            if problem := _problem_of_path(path, self._root, seen):
                skipped.add(problem, path or f"row {row + 1}")
            elif column is not None:
                cell = table[column][row][:SHOWN_CHARACTERS]
                skipped.add(f"no number in the column {column!r}", f"{path} ({cell!r})")
            else:
                seen.add(path)
                valid.append(row)
        return np.array(valid, dtype=np.int64)


# ------------------------------------------------------------ cells


def _join_numeric(columns: list[np.ndarray], is_list: bool) -> np.ndarray:
    """Return (N,) for a single column, (N, D) for a list of columns.

    A row that lacks one number of a list counts as lacking all of them.
    """
    if not is_list:
        return columns[0]
    values = np.stack(columns, 1)
    return np.where(np.isnan(values).any(1, keepdims=True), np.nan, values)


def _numbers(cells: Categories) -> np.ndarray:
    """Return (N,) float64: NaN for an empty cell, infinity for a cell that is not a number.

    Rows with an infinite value are skipped later, whether or not the cell says "inf".
    """
    numbers = np.array([_number(cell) for cell in cells.names.tolist()], dtype=np.float64)
    return np.asarray(numbers[cells.codes])


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


def _problem_of_path(
    path: str,
    root: Path,
    seen: set[str],
) -> str | None:
    """Return what is wrong with a path, or None. seen: the paths of earlier rows."""
    if not path:
        return "no path"
    if "\0" in path or not is_below(os.path.normpath(root), os.path.normpath(root / path)):
        return f"a path that leads out of {root}"
    return "listed twice" if path in seen else None


# ------------------------------------------------------------ the file


def _read(path: Path, skipped: Skipped) -> _Table:
    """Read the columns of a file. Rows with another number of cells are added to `skipped`.

    Raises MtlError if the file can't be read, is not a csv file, or has a wrong header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(HEADER_BYTES)
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=header.count))
            names = _column_names(path, next(reader, []))
            cells = _Cells(len(names))
            for row in _complete_rows(reader, len(names), skipped):
                cells.add(row)
    except OSError as error:
        raise MtlError(f"csv: {path} can't be read: {error.strerror}") from error
    except csv.Error as error:
        raise MtlError(f"csv: {path} is not a csv file: line {reader.line_num}: {error}") from error

    table: _Table = {}
    for i, name in enumerate(names):
        if name:
            table[name] = cells.column(i)
    return table


class _Cells:
    """The cells of a table, by column. Each distinct cell of a column is stored once."""

    def __init__(self, width: int) -> None:
        self._cells: list[dict[str, int]] = [{} for _ in range(width)]
        self._codes = [array("i") for _ in range(width)]

    def add(self, row: list[str]) -> None:
        for cell, known, codes in zip(row, self._cells, self._codes):
            codes.append(known.setdefault(cell.strip(), len(known)))

    def column(self, i: int) -> Categories:
        """Return a column, and free its cells."""
        found = numbered(np.array(self._codes[i], dtype=np.int32), self._cells[i])
        self._cells[i] = {}
        return found


def _column_names(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise MtlError(f"csv: {path} has the column {repeated[0]!r} more than once")
    if not any(names):
        raise MtlError(f"csv: {path} must start with a header line of column names")
    return names


def _complete_rows(
    reader: Iterable[list[str]],
    width: int,
    skipped: Skipped,
) -> Iterable[list[str]]:
    for number, cells in enumerate(reader, 1):
        if len(cells) == width:
            yield cells
        elif cells:  # an empty line is not a row
            skipped.add(f"not {width} columns", f"row {number}")
