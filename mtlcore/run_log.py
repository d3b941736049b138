"""metrics.jsonl, the log of a run: one line for each logged step or evaluation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from .checkpoints import Saved
from .errors import MtlError
from .files import (
    LARGEST_TABLE,
    flush_folder,
    read_file,
    to_json,
    write_atomically,
    write_errors_as_mtl_error,
)
from .sealed import JsonObject, damaged, digest


@frozen
class RunLog:
    """The log of a run.

    file: metrics.jsonl. note: returns the end of the message if it can't be written.
    """

    file: Path
    note: Callable[[], str]

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a line. NaN and infinity become null."""
        with write_errors_as_mtl_error(self.file, self.note()), self.file.open("a") as file:
            file.write(to_json(row) + "\n")

    def flush(self) -> None:
        """Flush the log to disk. Some file systems report a full disk only here."""
        if not self.file.exists():
            return
        with write_errors_as_mtl_error(self.file, self.note()), self.file.open("ab") as file:
            os.fsync(file.fileno())
            flush_folder(self.file.parent)

    def read(self) -> bytes:
        """Return all bytes of the log, none if there is no such file."""
        try:
            return read_file(self.file, LARGEST_TABLE)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise MtlError(f"{self.file} can't be read: {error.strerror or error}") from error

    def require(self, covered: Saved) -> None:
        """Raise MtlError if lines that a checkpoint covers are missing or were changed."""
        data = self.read()
        if len(data) < covered.size:
            raise damaged(
                self.file,
                f"lines are missing: it has {len(data)} bytes, and the checkpoint to resume from "
                f"was saved after {covered.size}",
            )
        if digest(data[: covered.size]) != covered.sha256:
            raise damaged(self.file, "lines from before the checkpoint were changed")

    def truncate(self, covered: Saved) -> None:
        """Cut the log back to the lines that a checkpoint covers: a resumed run writes the rest."""
        data = self.read()
        if len(data) > covered.size:
            with write_errors_as_mtl_error(self.file.parent):
                write_atomically(self.file, data[: covered.size])

    def rows(self) -> list[JsonObject]:
        """Return all complete lines. A number that was not finite is NaN.

        A crash may have cut the last one short. Raises MtlError if another line can't be read.
        """
        *lines, last = self.read().split(b"\n")
        rows = [self._row(number, line) for number, line in enumerate(lines, 1)]
        # A complete line ends with a line break, but an editor may have removed the last one.
        if last:
            with suppress(MtlError):
                rows.append(self._row(len(lines) + 1, last))
        return rows

    def validation_at(self, step: int) -> dict[str, float]:
        """Return the validation metrics that were logged at a step; empty if there are none."""
        prefix = "validation/"
        found: dict[str, float] = {}
        for row in self.rows():
            if row.get("step") == step:
                # A run that is resumed at its last step measures again.
                found |= {
                    name.removeprefix(prefix): value
                    for name, value in row.items()
                    if name.startswith(prefix)
                }
        return found

    def _row(self, number: int, line: bytes) -> JsonObject:
        try:
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row["step"], int):
                return with_nan(row)
        except (ValueError, KeyError, RecursionError):
            pass
        raise damaged(self.file, f"line {number} is not a JSON object with a step")


def with_nan(numbers: Mapping[str, Any]) -> JsonObject:
    """Return the numbers that `to_json` wrote, with NaN for null."""
    return {name: math.nan if value is None else value for name, value in numbers.items()}
