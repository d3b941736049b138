"""The bytes of columns, for fingerprints."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..contracts import Column
from ..contracts.columns import is_numbers
from ..contracts.texts import CHUNK, Texts


def column_bytes(column: Column | Texts) -> Iterator[bytes]:
    """Yield bytes that do not depend on the byte order, or on how strings are stored."""
    if is_numbers(column):
        yield np.ascontiguousarray(column, dtype="<f8").tobytes()
        return
    for start in range(0, len(column), CHUNK):
        if start:
            yield b"\0"
        joined = "\0".join(column[start : start + CHUNK].tolist())
        yield joined.encode(errors="surrogatepass")
