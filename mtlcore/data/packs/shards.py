"""Read byte ranges of the files of a pack.

`LocalFiles` reads them with `pread`. A memory map would be a little faster, but a file that is cut
short would end the process with SIGBUS, and touched pages would count as memory of the run.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ...errors import MtlError
from ...files import open_file, read_file
from .manifest import AGAIN, Manifest, shard_name

OPEN_FILES = 64  # shards whose files stay open
LARGEST_INDEX = 1 << 36  # bytes of index.parquet, and of a shard: 64 GiB


class Files(Protocol):
    """The files of one pack. Several threads may call its methods at once."""

    @property
    def may_change(self) -> bool:
        """Whether bytes that were read may be different when they are read again."""
        ...

    def name(self, file: str) -> str:
        """Return where a file is, for messages."""
        ...

    def read(self, file: str) -> bytes:
        """Return a whole file. Raises FileNotFoundError, or MtlError if it can't be read."""
        ...

    def read_into(self, shard: int, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes of a shard from `offset`. Raises MtlError if it can't."""
        ...

    def forget(self, shard: int, offset: int, length: int) -> bool:
        """Delete local copies of these bytes, and return whether there were any."""
        ...

    def begin(self, manifest: Manifest) -> None:
        """Get ready to read. Raises MtlError if a shard is missing or has another length."""
        ...

    def prepare(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Get ready to read these ranges: (shard, offset, length). Raises MtlError if it can't."""
        ...


class LocalFiles:
    """The files of a pack in a folder. A copy of it, in another process, opens them again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[int, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[LocalFiles], tuple[Path]]:
        return LocalFiles, (self.folder,)

    @property
    def may_change(self) -> bool:
        return False

    def name(self, file: str) -> str:
        return str(self.folder / file)

    def read(self, file: str) -> bytes:
        try:
            return read_file(self.folder / file, LARGEST_INDEX)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise MtlError(f"{self.folder / file} can't be read: {error.strerror}") from error

    def read_into(self, shard: int, offset: int, out: memoryview) -> None:
        descriptor = self._open.get(shard) or self._opened(shard)
        try:
            done = _read_at(descriptor.number, out, offset)
        except OSError as error:
            raise MtlError(f"{self._path(shard)} can't be read: {error.strerror}") from error
        if done < len(out):
            raise cut_short(str(self._path(shard)), offset + done, offset + len(out))

    def forget(self, shard: int, offset: int, length: int) -> bool:
        return False

    def prepare(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        pass

    def begin(self, manifest: Manifest) -> None:
        for number, expected in enumerate(manifest.shards):
            path = self._path(number)
            try:
                length = path.stat().st_size
            except OSError as error:
                raise missing(str(path), error) from error
            if length != expected.length:
                raise cut_short(str(path), length, expected.length)

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def _opened(self, shard: int) -> _Descriptor:
        """Open a shard. The file that was opened first is closed when no thread reads it."""
        path = self._path(shard)
        try:
            descriptor = _Descriptor(path)
        except OSError as error:
            raise missing(str(path), error) from error
        with self._lock:
            self._open[shard] = descriptor
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return descriptor


class _Descriptor:
    """An open file, closed when it is no longer referenced."""

    def __init__(self, path: Path) -> None:
        with open_file(path, LARGEST_INDEX) as file:
            self.number = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


if hasattr(os, "preadv"):

    def _read_at(descriptor: int, out: memoryview, offset: int) -> int:
        """Fill `out` from a file, and return the number of bytes read: fewer at its end."""
        done = os.preadv(descriptor, [out], offset)
        while 0 < done < len(out):
            more = os.preadv(descriptor, [out[done:]], offset + done)
            if not more:
                break
            done += more
        return done

else:  # Windows
    _seek = threading.Lock()

    def _read_at(descriptor: int, out: memoryview, offset: int) -> int:
        with _seek:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(out))
        out[: len(data)] = data
        return len(data)


def missing(where: str, error: OSError) -> MtlError:
    """Return the error for a shard that can't be opened."""
    reason = "is missing" if isinstance(error, FileNotFoundError) else f"can't be read: {error}"
    return MtlError(f"{where} {reason}: copy the whole pack again, or {AGAIN}")


def cut_short(where: str, length: int, expected: int) -> MtlError:
    """Return the error for a shard with another length than pack.json says."""
    return MtlError(
        f"{where} has {length:,} bytes; expected {expected:,}: "
        f"copy the whole pack again, or {AGAIN}"
    )
