"""A user's own table with one row for each image: what its columns mean.

One column holds the path of the image, the others hold labels. A label column is numeric if all its
values are numbers, and categorical otherwise. Every column can also be the `split` or the `group`
of the [data.<label>] table, name the file of a map, or hold points. A subclass reads the cells from
its file format.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from attrs import field, frozen

from ..contracts import (
    Categories,
    Column,
    Dataset,
    Index,
    MapColumn,
    PointColumn,
    Sample,
    Skipped,
)
from ..contracts.columns import as_keys
from ..contracts.texts import Texts
from ..errors import MtlError, nearest
from ..files import read_file
from .cells import first_of_each, join_numeric, matches, numbers_or_infinity, numbers_or_none
from .column_bytes import column_bytes
from .images import LARGEST_IMAGE, is_below, read_image
from .label_columns import points_of, read_map, without_wrong_points
from .path_hints import hint_for

if TYPE_CHECKING:
    import pyarrow

_Columns = dict[str, tuple[str, ...]]  # annotation -> its columns

SHOWN_CHARACTERS = 20  # of a cell in a message
PROBES = 16  # files of a map that are tried, to find out its dtype and channels
EMPTY = r"^$"
# Any other path is inside the root, without a closer look.
SUSPICIOUS = r"^$|^[/.]|\.\.|[\x00\\:]"


@frozen(eq=False)
class Rows:
    """N rows of a table.

    cells: column -> its cells, N strings without white space around them.
    lines: (N,) int, the line of each row in the file.
    numbers: column -> (N,) or (N, D) floats, where the file holds numbers; NaN if missing.
    split: (N,) official splits, or None.
    has_images: whether the file holds the images, so that the column `path` names them alone.
    """

    cells: dict[str, pyarrow.ChunkedArray]
    lines: np.ndarray
    numbers: dict[str, np.ndarray] = field(factory=dict)
    split: Categories | None = None
    has_images: bool = False


@frozen(eq=False)
class TableIndex(Index):
    """The index of a table.

    rows: (N,) int64, the row of each sample in the file.
    has_images: as in `Rows`.
    map_files: name of a map -> (N,) strings, the paths of its files; "" if missing.
    point_values: name of points -> (N, K, 2) float32, in pixels.
    """

    rows: np.ndarray = field(kw_only=True)
    has_images: bool = field(kw_only=True)
    map_files: dict[str, Texts] = field(kw_only=True)
    point_values: dict[str, np.ndarray] = field(kw_only=True)

    def label_digest(self) -> str:
        """Return a digest of the paths of maps and of the points, "" without both."""
        columns: dict[str, Texts | np.ndarray] = {}
        columns |= {f"map {name}": files for name, files in self.map_files.items()}
        columns |= {f"points {name}": values for name, values in self.point_values.items()}
        if not columns:
            return ""
        found = hashlib.blake2b(digest_size=16)
        for name, column in sorted(columns.items()):
            found.update(name.encode())
            for content in column_bytes(column):
                found.update(content)
        return found.hexdigest()


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
    maps: dict[str, str] = field(factory=dict)
    points: dict[str, str | tuple[str, ...]] = field(factory=dict)

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
        map_cells = {name: rows.cells[column] for name, column in self.maps.items()}
        for column in set(self.maps.values()):
            del rows.cells[column]
        cells = {name: Categories.of(rows.cells.pop(name)) for name in list(rows.cells)}

        parsed: dict[str, np.ndarray] = {}
        for name, cs in columns.items():
            parsed |= self._numbers(name, cs, cells, rows.numbers)
        points: dict[str, np.ndarray] = {}
        for name, cs in self._point_columns().items():
            points[name] = points_of(name, cs, cells, rows.numbers)
        valid = self._valid_rows(paths, rows, cells, parsed, skipped)
        self._without_outside_maps(map_cells, valid, rows, skipped)
        without_wrong_points(points, valid, paths, skipped)
        keys = as_keys(paths.filter(valid))
        if keys.repeated():
            is_first = first_of_each(paths.filter(valid))
            for row in np.flatnonzero(~is_first).tolist():
                skipped.add("listed twice", keys[row])
            valid[np.flatnonzero(valid)[~is_first]] = False
            keys = keys[is_first]
        map_files = {name: as_keys(of_map.filter(valid)) for name, of_map in map_cells.items()}
        has_images = rows.has_images
        split = None if rows.split is None else rows.split[valid]
        del paths, rows, map_cells
        pa.default_memory_pool().release_unused()

        annotations: dict[str, Column] = {}
        for name, cs in columns.items():
            if cs[0] in parsed:
                is_list = not isinstance(self.columns.get(name, ""), str)
                annotations[name] = join_numeric([parsed[c][valid] for c in cs], is_list)
            else:
                annotations[name] = cells[cs[0]][valid]
        hidden = self._hidden(columns)
        attributes = {name: of[valid] for name, of in cells.items() if name not in hidden}
        point_values = {name: values[valid] for name, values in points.items()}
        return TableIndex(
            keys,
            annotations,
            split=split,
            attributes=attributes,
            skipped=skipped,
            maps=self._declared_maps(map_files, np.flatnonzero(valid)),
            points={name: _declared_points(values) for name, values in point_values.items()},
            rows=np.flatnonzero(valid),
            has_images=has_images,
            map_files=map_files,
            point_values=point_values,
        )

    def decode(self, index: Index, i: int) -> Sample:
        if not isinstance(index, TableIndex):
            raise MtlError(f"{self._kind}: `decode` needs the index that `index()` returned")
        image = self.image(index, i)
        maps: dict[str, np.ndarray] = {}
        for name, files in index.map_files.items():
            if files[i]:
                maps[name] = self.map(index, name, i)
        points: dict[str, np.ndarray] = {}
        for name, values in index.point_values.items():
            if index.points[name].present[i]:
                points[name] = values[i]
        return Sample(image, maps, points)

    def image(self, index: TableIndex, i: int) -> np.ndarray:
        """Return the image of sample i, (H, W, 3) uint8. Raises MtlError if it can't be read."""
        path = str(index.keys[i])
        self._require_inside(path)
        try:
            return read_image(path, self._root)
        except MtlError as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError) and (hint := hint_for(path, self._root)):
                raise MtlError(f"{error}; {hint}") from cause
            raise

    def map(self, index: TableIndex, name: str, i: int) -> np.ndarray:
        """Return a map of sample i, (H, W) or (H, W, C). Raises MtlError if it can't be read."""
        return self.map_file(name, index.map_files[name][i], int(index.rows[i]))

    def map_file(self, name: str, path: str, row: int) -> np.ndarray:
        """Return a map from its path, or from a row of the table. Raises as `map` does."""
        self._require_inside(path)
        file = self._root / path
        try:
            return read_map(read_file(file, LARGEST_IMAGE), str(file))
        except OSError as error:
            hint = hint_for(path, self._root) if isinstance(error, FileNotFoundError) else None
            ending = f"; {hint}" if hint else ""
            raise MtlError(f"{file} can't be read: {error.strerror}{ending}") from error

    def _require_inside(self, path: str) -> None:
        # realpath: unlike other datasets, symbolic links may not leave the root either.
        if not is_below(os.path.realpath(self._root), os.path.realpath(self._root / path)):
            raise MtlError(f"{path!r} leads out of {self._root}: an image must be inside the root")

    @property
    def _kind(self) -> str:
        """The name of the dataset, for messages."""
        return type(self).__name__.lower()

    @property
    def _root(self) -> Path:
        return self.file.parent if self.root is None else self.root

    # ------------------------------------------------------------ columns

    def _columns_by_annotation(self, names: Sequence[str]) -> _Columns:
        """Return annotation -> its columns. Raises MtlError for an unknown name."""
        configured: Mapping[str, str | tuple[str, ...]] = self.columns
        if not configured:
            others = names if self.attributes is None else set(names) - set(self.attributes)
            own_use = {self.path, *self.maps.values(), *_all(self._point_columns())}
            configured = {name: name for name in names if name in others and name not in own_use}
        columns: _Columns = {}
        for name, own in configured.items():
            columns[name] = (own,) if isinstance(own, str) else tuple(own)

        self._require_column(self.path, "path", names)
        for name, cs in columns.items():
            for column in cs:
                self._require_column(column, f"columns.{name}", names)
                self._require_no_files(column, f"columns.{name}")
        for column in self.attributes or ():
            self._require_column(column, "attributes", names)
            self._require_no_files(column, "attributes")
        for name, column in self.maps.items():
            self._require_column(column, f"maps.{name}", names)
        for name, cs in self._point_columns().items():
            for column in cs:
                self._require_column(column, f"points.{name}", names)
        for key in ("numeric", "categorical"):
            for name in getattr(self, key):
                if name not in columns:
                    hint = nearest(name, columns)
                    raise MtlError(
                        f"{self._kind}: {key} lists {name!r}, which is not an annotation; {hint}"
                    )
        return columns

    def _require_no_files(self, column: str, key: str) -> None:
        """Raise MtlError if this column holds the paths of images or maps."""
        if column == self.path or column in self.maps.values():
            raise MtlError(
                f"{self._kind}: {key} names {column!r}, which holds the paths of images or maps: "
                "name another column, or add a copy of it to the table"
            )

    def _require_column(
        self,
        column: str,
        key: str,
        names: Sequence[str],
    ) -> None:
        """Raise MtlError if the table has no such column. key: where the configuration names it."""
        if column not in names:
            hint = nearest(column, names)
            raise MtlError(f"{self._kind}: {self.file} has no column {column!r} ({key}); {hint}")

    def _needed(self, names: Sequence[str], columns: _Columns) -> list[str]:
        """Return the columns to read, in their order in the table."""
        if self.attributes is None:
            return list(names)
        needed = {self.path, *self.attributes, *self.maps.values(), *_all(self._point_columns())}
        for cs in columns.values():
            needed |= set(cs)
        return [name for name in names if name in needed]

    def _numbers(
        self,
        name: str,
        columns: tuple[str, ...],
        cells: Mapping[str, Categories],
        numbers: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Return column -> its numbers (N,) or (N, D), and {} for an annotation of names.

        NaN stands for an empty cell, infinity for a cell that is not a number. Raises MtlError if
        the keys contradict.
        """
        if name in self.numeric and name in self.categorical:
            raise MtlError(
                f"{self._kind}: {name!r} is in numeric and in categorical: keep one of them"
            )
        is_list = not isinstance(self.columns.get(name, ""), str)
        if is_list and name in self.categorical:
            raise MtlError(
                f"{self._kind}: columns.{name} is a list, which makes it numeric: "
                "remove it from categorical"
            )
        if name in self.categorical:
            return {}
        if all(column in numbers for column in columns):
            return {column: numbers[column] for column in columns}
        if is_list or name in self.numeric:
            return {c: numbers_or_infinity(cells[c]) for c in columns}
        found = numbers_or_none(cells[columns[0]])
        return {} if found is None else {columns[0]: found}

    def _point_columns(self) -> _Columns:
        """Return name of points -> its columns."""
        found: _Columns = {}
        for name, own in self.points.items():
            found[name] = (own,) if isinstance(own, str) else tuple(own)
        return found

    def _hidden(self, columns: _Columns) -> set[str]:
        """Return the columns of points that nothing else needs as text."""
        return set(_all(self._point_columns())) - set(_all(columns)) - set(self.attributes or ())

    # ------------------------------------------------------------ rows

    def _valid_rows(
        self,
        paths: pyarrow.ChunkedArray,
        rows: Rows,
        cells: Mapping[str, Categories],
        parsed: Mapping[str, np.ndarray],
        skipped: Skipped,
    ) -> np.ndarray:
        """Return which rows are valid, (N,) bool, and add the others to `skipped`.

        parsed: the numeric columns; infinite values mark cells that are not numbers. Empty rows are
        passed over.
        """
        valid = np.ones(len(paths), dtype=bool)
        suspicious = EMPTY if rows.has_images else SUSPICIOUS
        for row in matches(paths, suspicious).tolist():
            path = paths[row].as_py()
            problem = "no image" if rows.has_images else _problem_of_path(path, self._root)
            if not problem:
                continue
            valid[row] = False
            if path or any(column[row] for column in cells.values()):
                skipped.add(problem, path or f"line {rows.lines[row]}")

        for column, numbers in parsed.items():
            wrong = np.isinf(numbers.reshape(len(valid), -1)).any(1)
            for row in np.flatnonzero(wrong & valid).tolist():
                valid[row] = False
                cell = cells[column][row] if column in cells else str(numbers[row])
                name = f"{paths[row].as_py()} ({cell[:SHOWN_CHARACTERS]!r})"
                skipped.add(f"no number in the column {column!r}", name)
        return valid

    def _without_outside_maps(
        self,
        files: Mapping[str, pyarrow.ChunkedArray],
        valid: np.ndarray,
        rows: Rows,
        skipped: Skipped,
    ) -> None:
        """Make the rows invalid whose maps are outside of the root. valid: (N,) bool, changed."""
        for cells in files.values():
            for row in [] if rows.has_images else matches(cells, SUSPICIOUS).tolist():
                path = cells[row].as_py()
                problem = _problem_of_path(path, self._root) if path else None
                if problem and valid[row]:
                    valid[row] = False
                    skipped.add(problem, path)

    def _declared_maps(self, files: Mapping[str, Texts], rows: np.ndarray) -> dict[str, MapColumn]:
        """Return the form of each map, from its first file that can be read.

        Raises MtlError if none can be read.
        """
        found: dict[str, MapColumn] = {}
        for name, paths in files.items():
            present = np.array([bool(path) for path in paths], dtype=bool)
            problem: MtlError | None = None
            for i in np.flatnonzero(present)[:PROBES].tolist():
                try:
                    pixels = self.map_file(name, paths[i], int(rows[i]))
                except MtlError as error:
                    problem = problem or error
                    continue
                channels = pixels.shape[2] if pixels.ndim == 3 else None
                found[name] = MapColumn(present, pixels.dtype, channels)
                break
            else:
                reason = problem or "no row has one"
                raise MtlError(f"{self._kind}: maps.{name}: no map can be read: {reason}")
        return found


def _problem_of_path(path: str, root: Path) -> str | None:
    """Return what is wrong with a path, or None."""
    if not path:
        return "no path"
    if "\0" in path or not is_below(os.path.normpath(root), os.path.normpath(root / path)):
        return f"a path that leads out of {root}"
    return None


def _declared_points(values: np.ndarray) -> PointColumn:
    """Return the form of points (N, K, 2). A sample without any number has none."""
    return PointColumn(~np.isnan(values).all((1, 2)), values.shape[1])


def _all(columns: _Columns) -> list[str]:
    """Return all columns of these names."""
    return [column for cs in columns.values() for column in cs]
