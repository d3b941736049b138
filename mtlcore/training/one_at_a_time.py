"""A lock: a process trains one run at a time, since a forward keeps state in globals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import MtlError

_training = threading.Lock()  # held while a run of this process trains


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Hold the lock for a run in this folder. Raises MtlError if another run holds it."""
    if not _training.acquire(blocking=False):
        raise MtlError(
            f"can't train {folder}: this process trains another run: "
            "wait until it ends, or start this one in another process"
        )
    try:
        yield
    finally:
        _training.release()
