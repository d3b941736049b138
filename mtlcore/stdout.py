"""A stdout that may be closed, or full, while the program runs.

`mtl train ... | tee log` must not lose a run because `tee` ended. So output that can't be written
is dropped, and the program continues.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""The reader of the pipe has ended, the terminal was closed, or there never was an output."""


class LossyOutput(io.FileIO):
    """A file descriptor for writing that drops what can't be written.

    lost: the first error, such as a full disk. Errors of a closed pipe or terminal do not count:
    nobody reads that output.
    """

    lost: OSError | None = None

    def write(self, data: bytes | memoryview) -> int | None:  # type: ignore[override]
        """Write bytes. -> their number, also if they were dropped."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE and self.lost is None:
                self.lost = error
            return len(data)


@contextmanager
def lossy_stdout() -> Iterator[LossyOutput | None]:
    """Let writes to stdout drop what can't be written, instead of raising.

    It does nothing if stdout is not that of the process, as in a notebook or a test. Characters
    that stdout can't encode, such as those of a file name in other bytes, are escaped.
    """
    stdout = sys.stdout
    if stdout is not sys.__stdout__ or not isinstance(stdout, io.TextIOWrapper):
        yield None
        return
    stdout.flush()
    output = LossyOutput(stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stdout.encoding,
        errors="backslashreplace",
        line_buffering=stdout.line_buffering,
    )
    try:
        yield output
    finally:
        sys.stdout.flush()
        sys.stdout = stdout


def open_missing_outputs() -> None:
    """Open stdin, stdout and stderr as /dev/null where the process was started without them.

    Otherwise, the next file that is opened gets such a number, and torch's messages end up in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
