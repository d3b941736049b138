"""`Limits`: what one request may hold, and how many requests are served at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attrs import asdict, define, field, frozen
from fastapi import HTTPException
from PIL import Image

from ..errors import MtlError

RETRY_S = 1  # the wait that a 503 response asks for


@frozen
class Limits:
    """The limits of a service. Each is at least 1.

    max_bytes: of the body of one request.
    max_images: of one request.
    max_pixels: width x height of one image.
    max_requests: that are read, wait or are computed at the same time. Their uploads together take
    at most max_requests x max_bytes.
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
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and self.max_pixels > most:
            raise MtlError(
                f"max_pixels = {self.max_pixels}: expected at most {most}, above which Pillow "
                "refuses images as decompression bombs"
            )


@define(eq=False)
class RequestSlots:
    """Slots for the requests that one event loop serves at the same time.

    n: the number of slots. taken: how many are in use.
    """

    n: int
    taken: int = field(default=0, init=False)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Take a slot for one request. If none is free, answer 503."""
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
