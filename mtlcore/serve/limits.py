"""`Limits`: what one request may hold, and how many requests are served at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import asdict, define, field, frozen
from fastapi import HTTPException

from ..errors import MtlError

RETRY_S = 1  # what a client that finds the server busy is asked to wait


@frozen
class Limits:
    """The limits of a service. Each is at least 1.

    max_bytes: of the body of one request.
    max_images: of one request.
    max_pixels: width x height of one image.
    max_requests: that the server reads, keeps waiting or computes at the same time. Together they
    hold at most max_requests x max_bytes of uploads in memory.
    read_s: seconds in which the body of a request must arrive.
    """

    max_bytes: int = 20_000_000
    max_images: int = 16
    max_pixels: int = 50_000_000
    max_requests: int = 64
    read_s: float = 30

    def __attrs_post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 1:
                raise MtlError(f"{name} = {value}: expected at least 1")


@define(eq=False)
class Places:
    """The places for requests that are served at the same time, in one event loop.

    n: how many there are. taken: by requests that are being served.
    """

    n: int
    taken: int = field(default=0, init=False)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place for one request. If there is none, answer 503."""
        if self.taken >= self.n:
            raise HTTPException(
                503,
                f"the server is busy with {self.n} requests: try again in {RETRY_S} s",
                {"Retry-After": str(RETRY_S)},
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
