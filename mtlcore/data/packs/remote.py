"""The files of a pack behind a URL: byte ranges by fsspec, with a local cache of blocks.

A request that fails is repeated after 0.5, 1, 2, 4, 8 and 16 seconds. Every record is compared with
its CRC-32 each time it is read, since a server may change its answer at any time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ...errors import MtlError
from ...sealed import digest
from .blocks import BlockCache
from .manifest import Manifest, shard_name
from .shards import cut_short, missing

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
BLOCK, SMALL_BLOCK = 1 << 20, 1 << 16  # bytes of a request; the small ones if not all fit the cache
REQUESTS = 16  # at a time
GOES_ON = ". The run stops; its last checkpoint stays: `mtl train --resume RUN` continues"


class RemoteFiles:
    """The files of a pack below a URL.

    cache: the folder of the local cache. limit: its largest size in bytes.
    waits_s: seconds before each repetition of a request that failed.
    Raises MtlError for an unknown protocol.
    """

    def __init__(
        self, url: str, cache: Path, limit: int, waits_s: tuple[float, ...] = WAITS_S
    ) -> None:
        self.url, self.cache, self.limit, self.waits_s = url.rstrip("/"), cache, limit, waits_s
        self._system, self._root = _file_system(self.url)
        self._pool = ThreadPoolExecutor(REQUESTS, "remote")
        self._blocks = BlockCache(cache, digest(self.url.encode())[:16], limit)
        # Threads that need one block request it once.
        self._locks = [threading.Lock() for _ in range(REQUESTS)]
        self._lengths: tuple[int, ...] = ()
        self._block = BLOCK

    def __reduce__(self) -> tuple[Callable[..., RemoteFiles], tuple[Any, ...]]:
        made = self.url, self.cache, self.limit, self.waits_s
        return _restored, (made, self._lengths, self._block, self._blocks.folder.name)

    @property
    def may_change(self) -> bool:
        return True

    def name(self, file: str) -> str:
        return f"{self.url}/{file}"

    def read(self, file: str) -> bytes:
        data: bytes = self._request(file, lambda: self._system.cat_file(f"{self._root}/{file}"))
        return data

    def begin(self, manifest: Manifest) -> None:
        """Compare the shards, if the server lists files, and choose the folder of the blocks.

        Raises MtlError if a shard is missing or has another length.
        """
        self._lengths = tuple(shard.length for shard in manifest.shards)
        self._block = BLOCK if sum(self._lengths) <= self.limit else SMALL_BLOCK
        folder = digest(f"{self.url} {manifest.index.sha256} {self._block}".encode())[:16]
        self._blocks = BlockCache(self.cache, folder, self.limit)
        try:
            listed = self._system.ls(self._root, detail=True)
            found = {str(entry["name"]).rsplit("/", 1)[-1]: entry.get("size") for entry in listed}
        except Exception:  # noqa: BLE001 - not every server lists files
            return
        for number, length in enumerate(self._lengths):
            file = shard_name(number)
            if found and file not in found:
                raise missing(self.name(file), FileNotFoundError())
            if found and found[file] not in (None, length):
                raise cut_short(self.name(file), int(found[file]), length)

    def prepare(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Request the blocks of these ranges, several at a time: (shard, offset, length)."""
        blocks: dict[tuple[int, int], None] = {}
        for shard, offset, length in ranges:
            for block in self._blocks_of(offset, length):
                blocks[shard, block] = None
        wanted = [block for block in blocks if not self._blocks.has(*block)]
        for done in self._pool.map(lambda block: self._fetch(*block), wanted):
            del done  # only errors matter here

    def read_into(self, shard: int, offset: int, out: memoryview) -> None:
        filled = 0
        for block in self._blocks_of(offset, len(out)):
            begin = max(offset, block * self._block) - block * self._block
            length = min(self._block - begin, len(out) - filled)
            part = out[filled : filled + length]
            if not self._blocks.read_into(shard, block, begin, part):
                part[:] = self._fetch(shard, block)[begin : begin + length]
            filled += length

    def view(self, shard: int) -> memoryview:
        raise NotImplementedError  # a remote may change

    def forget(self, shard: int, offset: int, length: int) -> bool:
        for block in self._blocks_of(offset, length):
            self._blocks.remove(shard, block)
        return True

    def _blocks_of(self, offset: int, length: int) -> range:
        return range(offset // self._block, -(-(offset + length) // self._block))

    def _fetch(self, shard: int, block: int) -> bytes:
        """Request a block and keep it. Raises MtlError if it can't be read."""
        file, start = shard_name(shard), block * self._block
        stop = min(start + self._block, self._lengths[shard])

        def request() -> bytes:
            data: bytes = self._system.cat_file(f"{self._root}/{file}", start=start, end=stop)
            if len(data) != stop - start:
                raise OSError(f"the answer has {len(data):,} bytes; expected {stop - start:,}")
            return data

        with self._locks[block % len(self._locks)]:
            kept = bytearray(stop - start)
            if self._blocks.read_into(shard, block, 0, memoryview(kept)):
                return bytes(kept)
            try:
                data: bytes = self._request(file, request, GOES_ON)
            except FileNotFoundError as error:
                raise missing(self.name(file), error) from error
            self._blocks.write(shard, block, data)
            return data

    def _request(self, file: str, request: Callable[[], Any], ending: str = "") -> Any:
        """Call a function, several times if it fails. ending: of the message.

        Raises FileNotFoundError, and MtlError for another error at the last attempt.
        """
        for wait_s in (*self.waits_s, None):
            try:
                return request()
            except FileNotFoundError:
                raise
            except Exception as error:  # the errors of file systems have no common base
                if isinstance(error, PermissionError) or wait_s is None:
                    reason = str(error) or type(error).__name__
                    tries = len(self.waits_s) + 1
                    raise MtlError(
                        f"{self.name(file)} can't be read ({tries} attempts): {reason}{ending}"
                    ) from error
                time.sleep(wait_s)
        raise AssertionError  # the loop returns or raises


def _restored(
    made: tuple[str, Path, int, tuple[float, ...]], lengths: tuple[int, ...], block: int, name: str
) -> RemoteFiles:
    files = RemoteFiles(*made)
    files._lengths, files._block = lengths, block
    files._blocks = BlockCache(files.cache, name, files.limit)
    return files


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path there."""
    try:
        import fsspec
    except ImportError as error:
        raise MtlError(f'{url}: URLs need fsspec: type `pip install "mtlcore[remote]"`') from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # the package of this protocol
        hint = ': type `pip install "mtlcore[remote]"`' if url.startswith("s3:") else ""
        raise MtlError(f"{url}: {error}{hint}") from error
    except ValueError as error:
        raise MtlError(
            f"{url}: {error}; expected a folder, or a URL such as s3://bucket/folder"
        ) from error
    return system, str(path).rstrip("/")
