"""The dataset `csv`: a user's own table with one row for each image.

The meaning of the columns is in `table`. The delimiter is the comma, semicolon or tab that is most
frequent in the header. pyarrow reads the cells: its time and memory are linear in the bytes of the
file, and it reads the needed columns only.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, ClassVar

import numpy as np
from attrs import Attribute, field, frozen

from ..contracts import Skipped
from ..errors import MtlError
from ..files import BOMS, open_file, text_encoding
from .table import Rows, Table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pa_csv

HEADER_BYTES = 1 << 20  # the header line is within these
ROW_BYTES = 1 << 22  # of the longest row
TAIL_BYTES = 1 << 10  # of the file, which hold its last character
SHOWN_BYTES = 10  # around those that can't be decoded


@frozen
class Csv(Table):
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
    attributes: further columns to read, for `split`, `group` and metrics of subgroups (default: all
    of them). Set it for a large table with columns that you do not need.
    maps: name of a map -> its column of paths, relative to `root`: image files of class ids (not
    JPEG), or .npy. An empty cell means no map.
    points: name of points -> its column of numbers x y x y ... in pixels of the image, or a list of
    numeric columns [x, y, x, y, ...]. An empty cell means no points.
    encoding: of the file, such as "cp1252" for a table from Excel on Windows (default: UTF-8 or
    UTF-16, whichever it is).
    """

    encoding_advice: ClassVar[str] = (
        'Save it as UTF-8, or set data.<label>.encoding, such as encoding = "cp1252" for a table '
        "from Excel on Windows in Western Europe"
    )

    encoding: str | None = field(default=None)

    @encoding.validator
    def _known(self, _: Attribute[str | None], value: str | None) -> None:
        try:
            "".encode(value or "utf-8")
        except (LookupError, UnicodeError) as error:
            raise ValueError(f'no encoding {value!r}; expected one such as "cp1252"') from error

    def column_names(self) -> list[str]:
        with self._file() as file:
            return [name for name in self._layout(file).names if name]

    def read_columns(self, names: Sequence[str], skipped: Skipped) -> Rows:
        import pyarrow as pa
        import pyarrow.compute as pc

        # Arrow's own pool keeps memory that is freed: 40 MB more at the peak of a million rows.
        pa.set_memory_pool(pa.system_memory_pool())
        with self._file() as file:
            layout = self._layout(file)
            # The last column tells whether the last quote is closed.
            last = len(layout.names) - 1
            position_of = {name: layout.names.index(name) for name in names}
            table, bad = self._parsed(file, layout, sorted({*position_of.values(), last}), skipped)
            ends_with_quote = _last_byte(file) == b'"'

        n = table.num_rows
        lines = np.setdiff1d(np.arange(2, 2 + n + len(bad)), bad, assume_unique=True)
        if n and not ends_with_quote and "\n" in table[str(last)][-1].as_py():
            n -= 1
            skipped.add("a quote that is not closed until the end of the file", f"line {lines[n]}")
        cells = {name: table[str(at)].slice(0, n) for name, at in position_of.items()}
        del table  # each column is freed when its copy without white space exists
        for name in cells:
            cells[name] = pc.utf8_trim_whitespace(cells[name])
        pa.default_memory_pool().release_unused()
        return Rows(cells, lines[:n])

    # ------------------------------------------------------------ the file

    @contextmanager
    def _file(self) -> Iterator[BinaryIO]:
        """Open the table. Raises MtlError if it can't be read or has another encoding."""
        try:
            with open_file(self.file) as file:
                yield file
        except OSError as error:
            raise MtlError(f"csv: {self.file} can't be read: {error.strerror}") from error

    def _layout(self, file: BinaryIO) -> _Layout:
        """Read the header. Raises MtlError if it is not valid."""
        file.seek(0)
        head = file.read(HEADER_BYTES)
        encoding = self._encoding(head)
        is_whole = len(head) < HEADER_BYTES
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(head, is_whole)
        except UnicodeDecodeError:
            raise self._wrong_encoding(file, encoding) from None
        lines = io.StringIO(text.removeprefix("\ufeff"), newline="")
        first = lines.readline()
        if len(first) == len(text) and not is_whole:
            raise MtlError(
                f"csv: {self.file} has no line break in its first {HEADER_BYTES:,} bytes"
            )
        lines.seek(0)
        delimiter = max(",;\t", key=first.count)
        try:
            names = [name.strip() for name in next(csv.reader(lines, delimiter=delimiter), [])]
        except csv.Error as error:
            raise MtlError(f"csv: {self.file} is not a csv file: line 1: {error}") from error
        repeated = sorted({name for name in names if name and names.count(name) > 1})
        if repeated:
            raise MtlError(f"csv: {self.file} has the column {repeated[0]!r} more than once")
        if not any(names):
            raise MtlError(f"csv: {self.file} must start with a header line of column names")
        has_rows = bool(lines.read().strip()) or not is_whole
        return _Layout(encoding, delimiter, names, has_rows)

    def _encoding(self, head: bytes) -> str:
        detected = text_encoding(head)
        has_mark = any(head.startswith(mark) for mark in BOMS)
        return detected if self.encoding is None or has_mark else self.encoding

    def _parsed(
        self,
        file: BinaryIO,
        layout: _Layout,
        positions: list[int],
        skipped: Skipped,
    ) -> tuple[pa.Table, list[int]]:
        """Return the columns at these positions, named "0", "1", ..., and the lines of bad rows."""
        import pyarrow as pa
        import pyarrow.csv as pa_csv

        names = [str(position) for position in range(len(layout.names))]
        wanted = [str(position) for position in positions]
        bad: list[int] = []

        def skip(row: pa_csv.InvalidRow) -> str:
            bad.append(row.number)
            skipped.add(_problem_of(row), f"line {row.number}")
            return "skip"

        types = dict.fromkeys(wanted, pa.string())
        if not layout.has_rows:
            return pa.table({name: pa.array([], pa.string()) for name in wanted}), bad
        file.seek(0)
        try:
            table = pa_csv.read_csv(
                file,
                pa_csv.ReadOptions(
                    use_threads=False,  # otherwise `skip` gets no line numbers
                    column_names=names,
                    skip_rows_after_names=1,
                    encoding=layout.encoding.replace("utf-8-sig", "utf-8"),
                    block_size=ROW_BYTES,
                ),
                pa_csv.ParseOptions(
                    delimiter=layout.delimiter,
                    newlines_in_values=True,
                    ignore_empty_lines=False,  # so that the lines can be counted
                    invalid_row_handler=skip,
                ),
                pa_csv.ConvertOptions(include_columns=wanted, column_types=types),
            )
        except UnicodeDecodeError:
            raise self._wrong_encoding(file, layout.encoding) from None
        except pa.ArrowInvalid as error:
            raise self._error_of(error, file, layout) from error
        return table, bad

    def _error_of(self, error: Exception, file: BinaryIO, layout: _Layout) -> MtlError:
        """Return the error of the user for an error of pyarrow."""
        reason = str(error)
        if "UTF8" in reason:
            return self._wrong_encoding(file, layout.encoding)
        if "straddl" in reason:
            line = _line_of_long_row(file, layout)
            reason = f"line {line} has more than {ROW_BYTES:,} bytes: is a quote not closed?"
        return MtlError(f"csv: {self.file} is not a csv file: {reason}")

    def _wrong_encoding(self, file: BinaryIO, encoding: str) -> MtlError:
        line, found = _first_undecodable(file, encoding)
        name = encoding.upper().removesuffix("-SIG")
        return MtlError(
            f"csv: {self.file} is not {name} text: line {line} holds the bytes {found!r}. "
            f"{self.encoding_advice}"
        )


@frozen
class _Layout:
    """What the header tells.

    names: of the columns, stripped. "" for a column that can't be read.
    has_rows: whether anything follows the header.
    """

    encoding: str
    delimiter: str
    names: list[str]
    has_rows: bool


def _problem_of(row: pa_csv.InvalidRow) -> str:
    problem = f"not {row.expected_columns} columns"
    if "\n" in row.text:
        problem += ", over several lines: is a quote not closed?"
    return problem


def _last_byte(file: BinaryIO) -> bytes:
    """Return the last byte of a file that is neither a line break nor a part of a character."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    return file.read().rstrip(b"\r\n\0 ")[-1:]


def _first_undecodable(file: BinaryIO, encoding: str) -> tuple[int, bytes]:
    """Return the line of the first bytes that are not of this encoding, and these bytes."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    file.seek(0)
    while True:
        chunk = file.read(ROW_BYTES)
        try:
            line += decoder.decode(chunk, not chunk).count("\n")
        except UnicodeDecodeError as error:
            before = error.object[: error.start].decode(encoding)
            around = error.object[max(0, error.start - SHOWN_BYTES) : error.end + SHOWN_BYTES]
            return line + before.count("\n"), around
        if not chunk:
            return line, b""


def _line_of_long_row(file: BinaryIO, layout: _Layout) -> int:
    """Return the first line of the first row that is longer than Python's limit for a cell."""
    file.seek(0)
    text = io.TextIOWrapper(file, layout.encoding, errors="replace", newline="")
    pieces = iter(lambda: text.readline(ROW_BYTES), "")  # a line may be as long as the file
    reader = csv.reader(pieces, delimiter=layout.delimiter)
    line = 1
    try:
        for row in reader:
            if sum(map(len, row)) > csv.field_size_limit():
                break
            line = reader.line_num + 1
    except csv.Error:
        pass
    finally:
        text.detach()
    return line
