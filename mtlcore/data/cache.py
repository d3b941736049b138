"""Images of a run, all of one side S: decoded once into memory, or on demand where they would not fit.

Either way each is decoded once at opening, so that what can't be read is known before anything is learned.
Both stores answer `take(samples) -> (n, 3, S, S) uint8`. From memory this runs at the speed of a copy; worker processes
would only add the price of shipping pixels between processes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ..errors import MtlError
from .images import central_square, shrink

Progress = Callable[
    [str, int, int], None
]  # what is being done, how much of it is done, of how much
Decode = Callable[
    [int], np.ndarray
]  # sample -> (H, W, 3) uint8 RGB; raises MtlError where the image can't be read
Unreadable = dict[int, str]  # sample -> why
Jobs = Sequence[tuple[int, int]]  # (place, sample) pairs

PROBES = 64  # images looked at to learn how large they are
CHUNK = 128  # samples a thread decodes at a time
WORTH_A_THREAD_S = 100e-6  # an image that takes less is decoded faster by one thread than by two
CGROUP_LIMIT = Path(
    "/sys/fs/cgroup/memory.max"
)  # what a container may take (control groups, version 2)


class ImageCache(Protocol):
    """Images by sample."""

    @property
    def side(self) -> int:
        """S, pixels."""
        ...

    def take(self, indices: np.ndarray) -> Tensor:
        """(n,) int64 -> (n, 3, S, S) uint8, a copy."""
        ...


@frozen(eq=False)
class MemoryImageCache:
    """All images in one tensor (N, 3, S, S) uint8."""

    pixels: Tensor

    @property
    def side(self) -> int:
        return self.pixels.shape[-1]

    def take(self, indices: np.ndarray) -> Tensor:
        return self.pixels.index_select(0, torch.from_numpy(indices))


@frozen(eq=False)
class OnDemandImageCache:
    """Images that are decoded, by a few threads, each time they are asked for. An unreadable one raises MtlError.

    decode: sample -> (H, W, 3) uint8. side: S, pixels.
    """

    decode: Decode
    side: int
    _pool: ThreadPoolExecutor = field(
        factory=lambda: ThreadPoolExecutor(threads(), "decode"), init=False
    )

    def take(self, indices: np.ndarray) -> Tensor:
        pixels = torch.empty(len(indices), 3, self.side, self.side, dtype=torch.uint8)
        fill = partial(_tried, _Filler(self.decode, self.side, pixels.numpy()))
        share = max(1, -(-len(indices) // threads()))
        jobs = [
            list(zip(range(i, i + share), indices[i : i + share].tolist()))
            for i in range(0, len(indices), share)
        ]
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
) -> tuple[ImageCache, Unreadable]:
    """Samples 0 ... n-1, in memory where they fit into `memory` bytes (default: this process's half share), else on demand.

    -> the cache, and the samples that could not be read: in memory zeros stand in their place, on demand they raise MtlError.
    check: called with all unreadable samples so far whenever there are more of them; may raise MtlError to stop.
    """
    if n * 3 * side * side > (memory_budget() if memory is None else memory):
        found = _read_all(_Checker(decode), n, "checking images", progress, check)
        return OnDemandImageCache(decode, side), found
    pixels = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    found = _read_all(_Filler(decode, side, pixels.numpy()), n, "reading images", progress, check)
    return MemoryImageCache(pixels), found


def cache_size(decode: Decode, n: int, size: int, wanted: int | None) -> int:
    """The side at which images are kept: `cache_size`, or 1.5 x size; but no more than the largest one has to give.

    That is judged by up to 64 evenly spaced samples; those that can't be read are passed over.
    """
    wanted = wanted if wanted is not None else round(1.5 * size)
    largest = 0
    for index in (
        np.unique(np.linspace(0, n - 1, min(n, PROBES)).round().astype(np.int64)).tolist()
        if n
        else []
    ):
        try:
            largest = max(largest, min(decode(index).shape[:2]))
        except MtlError:
            continue
        if largest >= wanted:
            break
    return min(wanted, largest) if largest else wanted


def memory_budget() -> int:
    """Bytes that the images of one process may take: half of the memory, shared by this machine's processes."""
    env = os.environ
    processes = env.get("LOCAL_WORLD_SIZE") or env.get("WORLD_SIZE")  # Fabric itself sets this one
    return usable_memory() // 2 // max(1, int(processes or 1))


def usable_memory() -> int:
    """Bytes of this machine's memory, or of what a container is given of it."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:  # another system, or no such group
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical  # "max": no limit


def threads() -> int:
    """Threads that decode: one a core that this process may use, eight at most."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(8, cores)


@frozen(eq=False)
class _Filler:
    """Decodes samples into places of one array (n, 3, S, S); called from several threads, each with its own places."""

    decode: Decode
    side: int
    pixels: np.ndarray

    def __call__(self, place: int, index: int) -> None:
        square = shrink(self.decode(index), self.side, enlarge=True)
        for channel, plane in enumerate(
            self.pixels[place]
        ):  # six times as fast as one transposed copy
            plane[:] = square[..., channel]


@frozen(eq=False)
class _Checker:
    """Decodes samples and keeps nothing."""

    decode: Decode

    def __call__(self, place: int, index: int) -> None:
        central_square(self.decode(index))


def _tried(read: Callable[[int, int], None], jobs: Jobs) -> Unreadable:
    """-> the samples that can't be read."""
    bad: Unreadable = {}
    for place, index in jobs:
        try:
            read(place, index)
        except MtlError as error:
            bad[index] = str(error)
    return bad


def _read_all(
    read: Callable[[int, int], None],
    n: int,
    doing: str,
    progress: Progress | None,
    check: Callable[[Unreadable], None] | None,
) -> Unreadable:
    unreadable: Unreadable = {}
    for done, bad in _in_chunks(partial(_tried, read), n):
        unreadable |= bad
        if bad and check:
            check(unreadable)
        if progress:
            progress(doing, done, n)
    return unreadable


def _in_chunks(fill: Callable[[Jobs], Unreadable], n: int) -> Iterator[tuple[int, Unreadable]]:
    """-> how many samples are done, and the unreadable ones among the last chunk; in the order of the samples.

    The first two chunks are timed: tiny images are faster without threads, which would fight over the interpreter.
    """
    jobs = [[(index, index) for index in range(i, min(n, i + CHUNK))] for i in range(0, n, CHUNK)]
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
