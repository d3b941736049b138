"""Block network access, and record what was requested."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def offline() -> Iterator[list[str]]:
    """Inside the block, looking up names and connecting raise OSError. Yields the requests."""
    requests: list[str] = []
    original = socket.getaddrinfo, socket.socket.connect

    def refuse(*address: object, **_: object) -> None:
        words = [str(part) for part in address if not isinstance(part, socket.socket)]
        requests.append(" ".join(words))
        raise OSError("the network is blocked")

    socket.getaddrinfo = refuse  # type: ignore[assignment]
    socket.socket.connect = refuse  # type: ignore[method-assign]
    try:
        yield requests
    finally:
        socket.getaddrinfo, socket.socket.connect = original  # type: ignore[method-assign]
