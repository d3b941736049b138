"""A user's own table with one row for each image: what its columns mean.

One column holds the path of the image, the others hold labels. A label column is numeric if all its
values are numbers, and categorical otherwise. Every column can also be the `split` or the `group`
of the [data.<label>] table. A subclass reads the cells from its file format.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import field, frozen

from ..contracts import Categories, Column, Dataset, Index, Sample, Skipped
from ..contracts.columns import as_keys
from ..errors import MtlError, nearest
from .images import is_below, read_image
from .path_hints import hint_for

if TYPE_CHECKING:
    import pyarrow

_Columns = dict[str, tuple[str, ...]]  # annotation -> its columns

SHOWN_CHARACTERS = 20  # of a cell in a message
# Any other path is inside the root, without a closer look.
SUSPICIOUS = r"^$|^[/.]|\.\.|[\x00\\:]"


@frozen(eq=False)
class Rows:
    """N rows of a table.

    cells: column -> its cells, N strings without white space around them.
    lines: (N,) int, the line of each row in the file.
    """

    cells: dict[str, pyarrow.ChunkedArray]
    lines: np.ndarray


@frozen
class Table(Dataset):
    """One row for each image. The subclass documents the fields for users."""

    file: Path
    root: Path | None = None
    path: str = "path"
    columns: dict[str, str | tuple[str, ...]] = field(factory=dict)
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    attributes: tuple[str, ...] | None = None

    @abstractmethod
    def column_names(self) -> list[str]:
        """Return the names of all columns. Raises MtlError if the file can't be read."""

    @abstractmethod
    def read_columns(self, names: Sequence[str], skipped: Skipped) -> Rows:
        """Read these columns. Rows that can't be read are added to `skipped`.

        Raises MtlError if the file can't be read.
        """

    def index(self) -> Index:
        import pyarrow as pa

        skipped = Skipped()
        names = self.column_names()
        columns = self._columns_by_annotation(names)
        rows = self.read_columns(self._needed(names, columns), skipped)
        paths = rows.cells.pop(self.path)
        cells = {name: Categories.of(rows.cells.pop(name)) for name in list(rows.cells)}

        parsed: dict[str, np.ndarray] = {}
        for name, cs in columns.items():
            for column, numbers in self._numbers(name, cs, cells).items():
                parsed[column] = numbers
        valid = self._valid_rows(paths, rows.lines, cells, parsed, skipped)
        keys = as_keys(paths.filter(valid))
        if keys.repeated():
            is_first = _first_of_each(paths.filter(valid))
            for row in np.flatnonzero(~is_first).tolist():
                skipped.add("listed twice", keys[row])
            valid[np.flatnonzero(valid)[~is_first]] = False
            keys = keys[is_first]
        del paths, rows
        pa.default_memory_pool().release_unused()

        annotations: dict[str, Column] = {}
        for name, cs in columns.items():
            if cs[0] in parsed:
                is_list = not isinstance(self.columns.get(name, ""), str)
                annotations[name] = _join_numeric([parsed[c][valid] for c in cs], is_list)
            else:
                annotations[name] = cells[cs[0]][valid]
        attributes = {name: column[valid] for name, column in cells.items()}
        return Index(keys, annotations, attributes=attributes, skipped=skipped)

    def decode(self, index: Index, i: int) -> Sample:
        path = str(index.keys[i])
        # realpath: unlike other datasets, symbolic links may not leave the root either.
        if not is_below(os.path.realpath(self._root), os.path.realpath(self._root / path)):
            raise MtlError(f"{path!r} leads out of {self._root}: an image must be inside the root")
        try:
            return Sample(read_image(path, self._root))
        except MtlError as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError) and (hint := hint_for(path, self._root)):
                raise MtlError(f"{error}; {hint}") from cause
            raise

    @property
    def _root(self) -> Path:
        return self.file.parent if self.root is None else self.root

    # ------------------------------------------------------------ columns

    def _columns_by_annotation(self, names: Sequence[str]) -> _Columns:
        """Return annotation -> its columns. Raises MtlError for an unknown name."""
        configured: Mapping[str, str | tuple[str, ...]] = self.columns
        if not configured:
            others = names if self.attributes is None else set(names) - set(self.attributes)
            configured = {name: name for name in names if name in others and name != self.path}
        columns: _Columns = {}
        for name, own in configured.items():
            columns[name] = (own,) if isinstance(own, str) else tuple(own)

        self._require_column(self.path, "path", names)
        for name, cs in columns.items():
            for column in cs:
                self._require_column(column, f"columns.{name}", names)
        for column in self.attributes or ():
            self._require_column(column, "attributes", names)
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
        names: Sequence[str],
    ) -> None:
        """Raise MtlError if the table has no such column. key: where the configuration names it."""
        if column not in names:
            hint = nearest(column, names)
            raise MtlError(f"csv: {self.file} has no column {column!r} ({key}); {hint}")

    def _needed(self, names: Sequence[str], columns: _Columns) -> list[str]:
        """Return the columns to read, in their order in the table."""
        if self.attributes is None:
            return list(names)
        needed = {self.path, *self.attributes}
        for cs in columns.values():
            needed |= set(cs)
        return [name for name in names if name in needed]

    def _numbers(
        self,
        name: str,
        columns: tuple[str, ...],
        cells: Mapping[str, Categories],
    ) -> dict[str, np.ndarray]:
        """Return column -> its numbers (N,), if an annotation is numeric, and {} otherwise.

        NaN stands for an empty cell, infinity for a cell that is not a number. Raises MtlError if
        the keys contradict.
        """
        if name in self.numeric and name in self.categorical:
            raise MtlError(f"csv: {name!r} is in numeric and in categorical: keep one of them")
        is_list = not isinstance(self.columns.get(name, ""), str)
        if is_list and name in self.categorical:
            raise MtlError(
                f"csv: columns.{name} is a list, which makes it numeric: remove it from categorical"
            )
        if name in self.categorical:
            return {}
        if is_list or name in self.numeric:
            return {c: _numbers_or_infinity(cells[c]) for c in columns}
        numbers = _numbers_or_none(cells[columns[0]])
        return {} if numbers is None else {columns[0]: numbers}

    # ------------------------------------------------------------ rows

    def _valid_rows(
        self,
        paths: pyarrow.ChunkedArray,
        lines: np.ndarray,
        cells: Mapping[str, Categories],
        parsed: Mapping[str, np.ndarray],
        skipped: Skipped,
    ) -> np.ndarray:
        """Return which rows are valid, (N,) bool, and add the others to `skipped`.

        parsed: the numeric columns; infinite values mark cells that are not numbers. Empty rows are
        passed over.
        """
        valid = np.ones(len(paths), dtype=bool)
        for row in _matches(paths, SUSPICIOUS).tolist():
            path = paths[row].as_py()
            problem = _problem_of_path(path, self._root)
            if not problem:
                continue
            valid[row] = False
            if path or any(column[row] for column in cells.values()):
                skipped.add(problem, path or f"line {lines[row]}")

        for column, numbers in parsed.items():
            for row in np.flatnonzero(np.isinf(numbers) & valid).tolist():
                valid[row] = False
                cell = cells[column][row][:SHOWN_CHARACTERS]
                name = f"{paths[row].as_py()} ({cell!r})"
                skipped.add(f"no number in the column {column!r}", name)
        return valid


def _matches(cells: pyarrow.ChunkedArray, pattern: str) -> np.ndarray:
    """Return the positions of the cells that match a pattern, (n,) int."""
    import pyarrow.compute as pc

    return np.flatnonzero(pc.match_substring_regex(cells, pattern).to_numpy())


def _first_of_each(cells: pyarrow.ChunkedArray) -> np.ndarray:
    """Return which cells equal no earlier one, (N,) bool."""
    codes = cells.dictionary_encode().combine_chunks().indices.to_numpy()
    is_first = np.zeros(len(codes), dtype=bool)
    if len(codes):
        # Codes rise by the order of first appearance.
        highest = np.maximum.accumulate(codes)
        is_first[0] = True
        is_first[1:] = codes[1:] > highest[:-1]
    return is_first


def _problem_of_path(path: str, root: Path) -> str | None:
    """Return what is wrong with a path, or None."""
    if not path:
        return "no path"
    if "\0" in path or not is_below(os.path.normpath(root), os.path.normpath(root / path)):
        return f"a path that leads out of {root}"
    return None


# ------------------------------------------------------------ numbers


def _join_numeric(columns: list[np.ndarray], is_list: bool) -> np.ndarray:
    """Return (N,) for a single column, (N, D) for a list of columns.

    A row that lacks one number of a list counts as lacking all of them.
    """
    if not is_list:
        return columns[0]
    values = np.stack(columns, 1)
    return np.where(np.isnan(values).any(1, keepdims=True), np.nan, values)


def _numbers_or_none(cells: Categories) -> np.ndarray | None:
    """Return the numbers of a column (N,), NaN for an empty cell.

    Return None if there is a cell that is not a number, or no number at all.
    """
    numbers = np.full(len(cells.names), math.nan)
    has_number = False
    for i, cell in enumerate(cells.names):
        if cell:
            has_number = True
            try:
                numbers[i] = float(cell)
            except ValueError:
                return None
    return numbers[cells.codes] if has_number else None


def _numbers_or_infinity(cells: Categories) -> np.ndarray:
    """Return the numbers of a column (N,), NaN for an empty cell, infinity for no number.

    Rows with an infinite value are skipped later, whether or not the cell says "inf".
    """
    numbers = np.array([_number(cell) for cell in cells.names], dtype=np.float64)
    return np.asarray(numbers[cells.codes])


def _number(cell: str) -> float:
    try:
        return float(cell) if cell else math.nan
    except ValueError:
        return math.inf
