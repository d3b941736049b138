"""No network for a progress, and a list of who was called."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def offline() -> Iterator[list[str]]:
    """Names are not looked up and connections not made: both raise OSError, and are written down."""
    asked: list[str] = []
    kept = socket.getaddrinfo, socket.socket.connect

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(" ".join(str(part) for part in address if not isinstance(part, socket.socket)))
        raise OSError("there is no network here")

    socket.getaddrinfo, socket.socket.connect = refuse, refuse  # type: ignore[method-assign]
    try:
        yield asked
    finally:
        socket.getaddrinfo, socket.socket.connect = kept  # type: ignore[method-assign]
