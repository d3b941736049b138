"""A process trains one run at a time: networks keep the state of a forward in globals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import MtlError

_training = threading.Lock()  # held while a run of this process trains


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Train the run of this folder inside. Raises MtlError if this process trains another run."""
    if not _training.acquire(blocking=False):
        raise MtlError(
            f"can't train {folder}: this process trains another run, and it trains one at a time: "
            "wait for its end, or start this one in a process of its own"
        )
    try:
        yield
    finally:
        _training.release()
