"""The local cache of a remote pack: blocks of its shards, as files, up to a number of bytes.

Several processes may share the folder. Where the disk is full, the run goes on without it.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from pathlib import Path

ROOM = 0.9  # of the limit remains when old blocks are deleted
LOOK_EVERY = 0.05  # of the limit: written bytes after which other processes' blocks are counted
STALE_S = 3600.0  # seconds after which a temporary file belongs to a process that was killed
# The folder may hold files of the user: only what has the name of a block is counted and deleted.
_BLOCK = re.compile(r"[0-9a-f]{16}/\d{5}-\d{6}(\.\d+\.\d+\.tmp)?")


class CacheWarning(UserWarning):
    """The local cache of a remote pack can't be written."""


class BlockCache:
    """The blocks of one pack.

    root: the folder of all packs, to which `limit` bytes applies. name: the folder of this one, 16
        hexadecimal digits.
    """

    def __init__(self, root: Path, name: str, limit: int) -> None:
        self.root, self.folder, self.limit = root, root / name, limit
        self._lock = threading.Lock()
        self._total = self._since = -1  # bytes in the folder; bytes written since they were counted
        self._is_full = False

    def has(self, shard: int, block: int) -> bool:
        """Whether a block is here."""
        return self._file(shard, block).exists()

    def read_into(self, shard: int, block: int, begin: int, out: memoryview) -> bool:
        """Fill `out` from a block. Return False if it is not here, or not whole."""
        try:
            with self._file(shard, block).open("rb", buffering=0) as file:
                file.seek(begin)
                return file.readinto(out) == len(out)
        except OSError:  # never fetched, or deleted to make room
            return False

    def write(self, shard: int, block: int, data: bytes) -> None:
        """Keep a block, if there is room on the disk."""
        if self._is_full or len(data) > self.limit:
            return
        file = self._file(shard, block)
        temporary = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            self._make_room(len(data))
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(file)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self._is_full = True
            warnings.warn(
                f"can't write {file}: {error.strerror or error}: the run goes on, and requests "
                "each image from the remote: set cache_dir to a folder with more room",
                CacheWarning,
                stacklevel=2,
            )

    def remove(self, shard: int, block: int) -> None:
        """Delete a block, if it is here."""
        self._file(shard, block).unlink(missing_ok=True)

    def _file(self, shard: int, block: int) -> Path:
        return self.folder / f"{shard:05d}-{block:06d}"

    def _make_room(self, length: int) -> None:
        """Delete the oldest blocks if `length` more bytes would be too many."""
        with self._lock:
            if self._total < 0 or self._since > LOOK_EVERY * self.limit:
                self._total, self._since = sum(size for _, size, _ in self._listed()), 0
            self._total += length
            self._since += length
            if self._total <= self.limit:
                return
            for _, size, path in sorted(self._listed()):
                if self._total <= max(ROOM * self.limit, length):
                    break
                path.unlink(missing_ok=True)
                self._total -= size

    def _listed(self) -> list[tuple[int, int, Path]]:
        """Return the blocks of all packs: modification time in ns, bytes, path."""
        found: list[tuple[int, int, Path]] = []
        for path in self.root.glob("*/*"):
            if not _BLOCK.fullmatch(f"{path.parent.name}/{path.name}"):
                continue
            try:
                status = path.stat()
            except OSError:  # deleted meanwhile
                continue
            is_temporary = path.suffix == ".tmp"
            if is_temporary and time.time() - status.st_mtime < STALE_S:
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        return found
