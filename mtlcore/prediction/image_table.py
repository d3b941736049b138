"""The paths of images that a csv table lists, read by the rules of the dataset `csv`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts import Skipped
from ..data.csv_table import Csv
from ..data.table import Rows
from ..errors import MtlError

if TYPE_CHECKING:
    import pyarrow

PATH_COLUMNS = ("path", "image", "file", "filename", "key")
"""The columns of a table that may hold paths, in this order of preference."""

Listed = tuple[int, Path | None, str]
"""The line of a row, the path of its image, and "". Or the line, None, and what is wrong."""


def listed_images(file: Path) -> Iterator[Listed]:
    """Yield one entry for each row, in order; blank rows are left out.

    Paths are relative to the folder of the table. Raises MtlError if the table can't be read, if it
    has none of `PATH_COLUMNS`, or if it has no row.
    """
    table = _Table(file)
    names = table.column_names()
    column = next((name for name in PATH_COLUMNS if name in names), None)
    if column is None:
        raise MtlError(
            f"{file} has the columns {', '.join(names)}: expected one of "
            f"{', '.join(PATH_COLUMNS)}, with paths of images"
        )
    skipped = Skipped()
    rows = table.read_columns([column], skipped)
    readable = _readable(file, rows.lines.tolist(), table.texts(column, names, rows))
    # A row that can't be read keeps its place. Its name in `skipped` is "line 5".
    broken: list[Listed] = []
    for problem, lines in skipped.names.items():
        broken += [(int(line.split()[-1]), None, f"{line}: {problem}") for line in lines]
    broken.sort(key=itemgetter(0))

    is_empty = True
    for row in merge(readable, broken, key=itemgetter(0)):
        is_empty = False
        yield row
    if is_empty:
        raise MtlError(f"{file} lists no image: it has no row below the header line")


def _readable(table: Path, lines: Sequence[int], paths: Iterator[str | None]) -> Iterator[Listed]:
    for line, path in zip(lines, paths):
        if path:
            yield line, table.parent / path, ""
        elif path is not None:
            yield line, None, f"line {line}: no path"


class _Table(Csv):
    """A table of images to predict."""

    encoding_advice = "Save it as UTF-8"

    def texts(self, column: str, names: Sequence[str], rows: Rows) -> Iterator[str | None]:
        """Yield the cells of a column; None for a row without any text."""
        import pyarrow.compute as pc

        cells = rows.cells[column]
        others: dict[str, pyarrow.ChunkedArray] = {}
        if pc.any(pc.equal(cells, "")).as_py():
            others = self.read_columns(names, Skipped()).cells
        for row, cell in enumerate(cells):
            text = cell.as_py()
            is_blank = not text and not any(other[row].as_py() for other in others.values())
            yield None if is_blank else text
