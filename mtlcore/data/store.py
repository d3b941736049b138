"""Pictures of a run, all of one side S: decoded once into memory, or on demand where they would not fit.

Both stores answer `take(rows) -> (n, 3, S, S) uint8`. From memory this runs at the speed of a copy; worker processes
would only add the price of shipping pixels between processes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ..errors import MtlError
from .images import shrink

Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, of how much
Decode = Callable[[int], np.ndarray]  # row -> (H, W, 3) uint8 RGB; raises MtlError where the picture can't be read
Unreadable = dict[int, str]  # row -> why

PROBES = 64  # pictures looked at to learn how large they are
CHUNK = 128  # rows a thread decodes at a time
WORTH_A_THREAD_S = 100e-6  # a picture that takes less is decoded faster by one thread than by two


class Images(Protocol):
    """Pictures by row."""

    @property
    def side(self) -> int:
        """S, pixels."""
        ...

    def take(self, rows: np.ndarray) -> Tensor:
        """(n,) int64 -> (n, 3, S, S) uint8, a copy."""
        ...


@frozen(eq=False)
class MemoryImages:
    """All pictures in one tensor (N, 3, S, S) uint8."""

    pixels: Tensor

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def take(self, rows: np.ndarray) -> Tensor:
        return self.pixels.index_select(0, torch.from_numpy(rows))


@frozen(eq=False)
class LazyImages:
    """Pictures that are decoded, by a few threads, each time they are asked for. An unreadable one raises MtlError."""

    decode: Decode
    side: int
    _pool: ThreadPoolExecutor = field(factory=lambda: ThreadPoolExecutor(threads(), "decode"), init=False)

    def take(self, rows: np.ndarray) -> Tensor:
        pixels = torch.empty(len(rows), 3, self.side, self.side, dtype=torch.uint8)
        fill = _Filler(self.decode, self.side, pixels.numpy())
        share = max(1, -(-len(rows) // threads()))
        jobs = [list(zip(range(i, i + share), rows[i : i + share].tolist())) for i in range(0, len(rows), share)]
        for bad in self._pool.map(fill, jobs):
            if bad:
                raise MtlError(next(iter(bad.values())))
        return pixels


def open_images(
    decode: Decode,
    n: int,
    side: int,
    progress: Progress | None = None,
    check: Callable[[Unreadable], None] | None = None,
    memory: int | None = None,
) -> tuple[Images, Unreadable]:
    """Rows 0 ... n-1, in memory where they fit into `memory` bytes (default: half of this machine's), else on demand.

    -> the store and, where all were read, the rows that could not be (zeros stand in their place).
    check: called with all unreadable rows so far whenever there are more of them; may raise MtlError to stop.
    """
    budget = physical_memory() // 2 if memory is None else memory
    if n * 3 * side * side > budget:
        return LazyImages(decode, side), {}
    pixels = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    unreadable: Unreadable = {}
    for done, bad in _filled(_Filler(decode, side, pixels.numpy()), n):
        unreadable |= bad
        if bad and check:
            check(unreadable)
        if progress:
            progress("reading pictures", done, n)
    return MemoryImages(pixels), unreadable


def store_side(decode: Decode, n: int, size: int, store: int | None) -> int:
    """The side at which pictures are kept: `store`, or 1.5 x size; but no more than the largest one has to give.

    That is judged by up to 64 evenly spaced rows; those that can't be read are passed over.
    """
    wanted = store if store is not None else round(1.5 * size)
    largest = 0
    for row in np.unique(np.linspace(0, n - 1, min(n, PROBES)).round().astype(np.int64)).tolist() if n else []:
        try:
            largest = max(largest, min(decode(row).shape[:2]))
        except MtlError:
            continue
        if largest >= wanted:
            break
    return min(wanted, largest) if largest else wanted


def physical_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def threads() -> int:
    """Threads that decode: one a core that this process may use, eight at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


@frozen(eq=False)
class _Filler:
    """Decodes rows into places of one array (n, 3, S, S); called from several threads, each with its own places."""

    decode: Decode
    side: int
    pixels: np.ndarray

    def __call__(self, jobs: Sequence[tuple[int, int]]) -> Unreadable:
        """jobs: (place, row) pairs. -> the rows that can't be read."""
        bad: Unreadable = {}
        for place, row in jobs:
            try:
                square = shrink(self.decode(row), self.side, enlarge=True)
            except MtlError as error:
                bad[row] = str(error)
            else:
                for channel, plane in enumerate(self.pixels[place]):  # six times as fast as one transposed copy
                    plane[:] = square[..., channel]
        return bad


def _filled(fill: _Filler, n: int) -> Iterator[tuple[int, Unreadable]]:
    """-> how many rows are done, and the unreadable ones among the last chunk; in the order of the rows.

    The first two chunks are timed: tiny pictures are faster without threads, which would fight over the interpreter.
    """
    jobs = [[(row, row) for row in range(i, min(n, i + CHUNK))] for i in range(0, n, CHUNK)]
    fastest_s = math.inf
    for number, job in enumerate(jobs[:2], 1):
        begun = time.perf_counter()
        bad = fill(job)
        fastest_s = min(fastest_s, (time.perf_counter() - begun) / len(job))
        yield min(n, number * CHUNK), bad
    with ThreadPoolExecutor(threads() if fastest_s > WORTH_A_THREAD_S else 1, "decode") as pool:
        try:
            for number, bad in enumerate(pool.map(fill, jobs[2:]), 3):
                yield min(n, number * CHUNK), bad
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
