"""Read byte ranges of the files of a pack.

`LocalFiles` reads a record with `pread` first, so that a file that was cut short gives a message. A
record that is read again, and was compared with its CRC-32, comes from a memory map, which is three
times as fast: `pread` copies 2 to 3 GB/s, a map as fast as memory. The pages of a map count as
memory of the process, but the system takes them back whenever it needs them.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Protocol

from ...errors import MtlError
from ...files import open_file, read_file
from .manifest import AGAIN, Manifest, shard_name

OPEN_FILES = 256  # shards whose files stay open, with two descriptors each
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

    def view(self, shard: int) -> memoryview:
        """Return all bytes of a shard, mapped. Only for files that do not change."""
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
        self._lengths: tuple[int, ...] = ()
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., LocalFiles], tuple[Path, tuple[int, ...]]]:
        return _restored, (self.folder, self._lengths)

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
        opened = self._open.get(shard) or self._opened(shard)
        try:
            done = _read_at(opened.descriptor, out, offset)
        except OSError as error:
            raise MtlError(f"{self._path(shard)} can't be read: {error.strerror}") from error
        if done < len(out):
            raise cut_short(str(self._path(shard)), offset + done, offset + len(out))

    def view(self, shard: int) -> memoryview:
        opened = self._open.get(shard) or self._opened(shard)
        # Reading a map beyond the end of its file would end the process without a message.
        length = os.fstat(opened.descriptor).st_size
        if length != self._lengths[shard]:
            raise cut_short(str(self._path(shard)), length, self._lengths[shard])
        return opened.view

    def forget(self, shard: int, offset: int, length: int) -> bool:
        return False

    def prepare(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        pass

    def begin(self, manifest: Manifest) -> None:
        self._lengths = tuple(shard.length for shard in manifest.shards)
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

    def _opened(self, shard: int) -> _Shard:
        """Open a shard. The file that was opened first is closed when no thread reads it."""
        path = self._path(shard)
        try:
            opened = _Shard(path)
        except OSError as error:
            raise missing(str(path), error) from error
        with self._lock:
            self._open[shard] = opened
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return opened


def _restored(folder: Path, lengths: tuple[int, ...]) -> LocalFiles:
    files = LocalFiles(folder)
    files._lengths = lengths
    return files


class _Shard:
    """An open file, closed when it is no longer referenced."""

    def __init__(self, path: Path) -> None:
        with open_file(path, LARGEST_INDEX) as file:
            self.descriptor = os.dup(file.fileno())

    @cached_property
    def view(self) -> memoryview:
        """All bytes, mapped."""
        return memoryview(mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ))

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


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
