"""A lock on a run folder: one process at a time trains the run.

It is a lock of the operating system on RUN/.lock, so it ends with its process, however that ends.
The file stays. RUN/.lock.json names the process that holds it. Reading a run needs no lock.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout
from lightning_fabric import Fabric

from ..errors import MtlError
from ..files import write_atomically, write_errors_as_mtl_error

# Not released when a `Trainer` is built a second time, as notebooks do: it is the same process.
_held: dict[Path, FileLock] = {}


def lock_run(folder: Path, fabric: Fabric) -> None:
    """Lock a run folder for this process; all ranks must call it, and the main one holds the lock.

    The folder is created if it does not exist. Raises MtlError, on all ranks, if another process
    holds the lock, or if the lock can't be written.
    """
    problem = ""
    if fabric.is_global_zero:
        try:
            _lock(folder)
        except MtlError as error:
            problem = str(error)
    problem = fabric.broadcast(problem)
    if problem:
        raise MtlError(problem)


def unlock_run(folder: Path) -> None:
    """Release the lock of a run folder, if this process holds it."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        _owner_file(folder).unlink(missing_ok=True)
        lock.release()


def holds_lock(folder: Path) -> bool:
    """Whether this process holds the lock of a run folder."""
    return folder.resolve() in _held


def _lock(folder: Path) -> None:
    key = folder.resolve()
    if key in _held:
        return
    with write_errors_as_mtl_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise MtlError(
                f"can't train {folder}: {_owner(folder)} trains it. "
                "Wait until it ends, or stop it first"
            ) from error
        _held[key] = lock
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        write_atomically(_owner_file(folder), json.dumps(owner).encode())


def _owner_file(folder: Path) -> Path:
    return folder / ".lock.json"


def _owner(folder: Path) -> str:
    """The process that holds the lock, for a message."""
    try:
        owner = json.loads(_owner_file(folder).read_bytes())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"
