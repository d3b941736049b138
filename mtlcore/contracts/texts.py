"""N strings in one buffer: a column of keys that takes little more memory than its characters.

numpy's fixed-width strings take four bytes per character of the LONGEST one, and Python strings
about 50 bytes in addition to their characters. numpy's `StringDType` is compact too, but it crashes
the process: in `numpy.unique` of numpy 2.4, and when copied in numpy 2.0 and 2.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from attrs import frozen

CHUNK = 1 << 16  # strings converted at a time, so that the column is not in memory twice
ENCODING = "utf-8", "surrogatepass"  # file names may hold lone surrogates


@frozen(eq=False)
class Texts:
    """N strings, as UTF-8 bytes one after the other.

    buffer: (M,) uint8, the bytes of all strings. starts: (N + 1,) int64, where each one begins.

    It can be indexed, compared and iterated like a numpy array of strings, and numpy functions
    accept it.
    """

    buffer: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Return these strings. An iterable is read once, a chunk at a time."""
        buffers, lengths = [b""], [np.zeros(1, dtype=np.int64)]
        for chunk in _chunks(texts):
            encoded = [text.encode(*ENCODING) for text in chunk]
            buffers.append(b"".join(encoded))
            lengths.append(np.array([len(text) for text in encoded], dtype=np.int64))
        buffer = np.frombuffer(b"".join(buffers), dtype=np.uint8)
        return cls(buffer, np.concatenate(lengths).cumsum())

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> str: ...

    @overload
    def __getitem__(self, key: slice | np.ndarray | Sequence[int]) -> Texts: ...

    def __getitem__(
        self, key: int | np.integer[Any] | slice | np.ndarray | Sequence[int]
    ) -> str | Texts:
        if isinstance(key, int | np.integer):
            position = range(len(self))[key]
            return self._text(self.starts[position], self.starts[position + 1])
        if isinstance(key, slice) and key.indices(len(self))[2] == 1:
            start, stop, _ = key.indices(len(self))
            starts = self.starts[start : max(start, stop) + 1]
            return Texts(self.buffer[starts[0] : starts[-1]], starts - starts[0])
        return self._taken(np.arange(len(self))[key])

    def __iter__(self) -> Iterator[str]:
        return self._picked(np.arange(len(self)))

    def __eq__(self, other: object) -> np.ndarray:  # type: ignore[override]
        """Return which strings equal `other`, a string or N strings: (N,) bool, as numpy does."""
        # Compare as objects, since numpy drops trailing null characters of fixed-width strings.
        values = np.array(self.tolist(), dtype=object)
        if isinstance(other, Texts):
            other = other.tolist()
        if not isinstance(other, str):
            other = np.asarray(other, dtype=object)
        return np.asarray(values == other, dtype=bool)

    def __ne__(self, other: object) -> np.ndarray:  # type: ignore[override]
        return ~(self == other)

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.array(self.tolist(), dtype=str)
        return values if dtype is None else values.astype(dtype)

    def tolist(self) -> list[str]:
        """Return the N strings."""
        return list(self)

    def argsort(self) -> np.ndarray:
        """Return the positions (N,) int64 that sort the strings by code point, stable."""
        # UTF-8 keeps the order of code points. Fixed-width bytes sort without creating Python
        # strings, but numpy drops trailing null bytes, and one long string widens all of them.
        lengths = np.diff(self.starts)
        width = int(lengths.max(initial=1))
        if width * len(self) > 4 * len(self.buffer) + CHUNK or not self.buffer.all():
            texts = self.tolist()
            return np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int64)
        fixed = np.zeros((len(self), width), dtype=np.uint8)
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            filled = np.arange(width) < lengths[part, None]
            stop = min(start + CHUNK, len(self))
            fixed[part][filled] = self.buffer[self.starts[start] : self.starts[stop]]
        return np.argsort(fixed.view(f"S{width}").reshape(-1), kind="stable")

    def repeated(self) -> tuple[str, int] | None:
        """Return a string that occurs more than once, and how often; None if all differ."""
        hashes = np.fromiter(map(hash, self), dtype=np.int64, count=len(self))
        hashes.sort()
        if not (hashes[1:] == hashes[:-1]).any():  # faster than comparing the strings
            return None
        order = self.argsort()
        before: str | None = None
        count = 1
        for text in self._picked(order):
            if text == before:
                count += 1
            elif count > 1:
                break
            else:
                before = text
        return None if before is None or count == 1 else (before, count)

    def _taken(self, positions: np.ndarray) -> Texts:
        """Return the strings at these positions (n,), without creating Python strings."""
        lengths = np.diff(self.starts)[positions]
        starts = np.concatenate([np.zeros(1, dtype=np.int64), lengths.cumsum()])
        buffer = np.empty(int(starts[-1]), dtype=np.uint8)
        for first in range(0, len(positions), CHUNK):
            part = slice(first, first + CHUNK)
            shifts = self.starts[positions[part]] - starts[:-1][part]
            low, high = starts[first], starts[min(first + CHUNK, len(positions))]
            source = np.arange(low, high) + np.repeat(shifts, lengths[part])
            buffer[low:high] = self.buffer[source]
        return Texts(buffer, starts)

    def _picked(self, positions: np.ndarray) -> Iterator[str]:
        for first in range(0, len(positions), CHUNK):
            part = positions[first : first + CHUNK]
            starts, stops = self.starts[part].tolist(), self.starts[part + 1].tolist()
            for start, stop in zip(starts, stops):
                yield self._text(start, stop)

    def _text(self, start: int, stop: int) -> str:
        return self.buffer[start:stop].tobytes().decode(*ENCODING)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    yield chunk
