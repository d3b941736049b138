"""The image cache: all images of a run in one size (h, w), with the maps and points of its tasks.

There are two kinds. `MemoryImageCache` holds all images in one tensor. `OnDemandImageCache` decodes
images whenever they are taken; it is for runs whose images do not fit into memory. Both have the
method `take(indices) -> CachedSamples`. Images are cropped to the largest central rectangle
with the cache's aspect ratio, and shrunk. Maps and points are moved with them (`aligned`).

`open_images` decodes every image once in either case, so that unreadable images are known before
training starts. Taking images from memory runs at the speed of a copy. Worker processes would only
add the cost of moving pixels between processes.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from attrs import field, frozen
from torch import Tensor

from ..contracts import Sample
from ..errors import MtlError
from ..image_size import largest_of_ratio
from .aligned import LabelColumn, StoredLabels
from .images import shrink

# A callback for progress bars: the current activity, the number of images done, the total.
Progress = Callable[[str, int, int], None]

# Decodes one sample. Raises MtlError if it can't be read.
Decode = Callable[[int], Sample]

# The samples whose image can't be read: sample index -> the message of the MtlError.
Unreadable = dict[int, str]

# The work of one thread: pairs of (position in the output array, sample index).
Jobs = Sequence[tuple[int, int]]

PROBES = 64  # images that are decoded to find out how large the images are
CHUNK = 128  # samples that a thread decodes at a time
# Images that decode faster than this are read by one thread: several would compete for the GIL.
WORTH_A_THREAD_S = 100e-6
# Control groups limit the memory of a container.
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class CachedSamples(NamedTuple):
    """n samples of the cache, of one size (h, w).

    images: (n, 3, h, w) uint8.
    aligned: name -> a map (n, h, w) or (n, C, h, w), or points (n, K, 2) in pixels. Samples without
    the label, or without its use in training, hold zeros (points: NaN). `AlignedTask` lists dtypes.
    """

    images: Tensor
    aligned: dict[str, Tensor]


class ImageCache(Protocol):
    """Samples by their index."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        ...

    def take(self, indices: np.ndarray) -> CachedSamples:
        """Return a copy of these samples, (n,) int64 indices."""
        ...


@frozen(eq=False)
class MemoryImageCache:
    """All images in one tensor `pixels` (N, 3, h, w), uint8.

    aligned: the maps and points by name, each held once.
    """

    pixels: Tensor
    aligned: Mapping[str, StoredLabels] = field(factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.pixels.shape[-2:]
        return height, width

    def take(self, indices: np.ndarray) -> CachedSamples:
        images = self.pixels.index_select(0, torch.from_numpy(indices))
        return CachedSamples(
            images, {name: stored.take(indices) for name, stored in self.aligned.items()}
        )


@frozen(eq=False)
class OnDemandImageCache:
    """Samples that a few threads decode each time they are taken.

    decode: sample index -> its image, maps and points.
    size: height and width of every image, in pixels.
    columns: the maps and points to keep, by name.
    strict: taking an unreadable sample raises MtlError. Otherwise, its image is all zeros.
    """

    decode: Decode
    size: tuple[int, int]
    columns: Mapping[str, LabelColumn] = field(factory=dict)
    strict: bool = True
    _pool: ThreadPoolExecutor = field(
        factory=lambda: ThreadPoolExecutor(threads(), "decode"), init=False
    )

    def take(self, indices: np.ndarray) -> CachedSamples:
        n = len(indices)
        # numpy: torch would start threads of its own in the thread that reads ahead.
        pixels = np.zeros((n, 3, *self.size), dtype=np.uint8)
        aligned: dict[str, StoredLabels] = {}
        for name, column in self.columns.items():
            aligned[name] = StoredLabels.of(column.subset(indices), self.size)
        decode_jobs = partial(_run_jobs, _DecodeInto(self.decode, self.size, pixels, aligned))

        numbered = list(enumerate(indices.tolist()))
        per_thread = max(1, -(-n // threads()))
        jobs = [numbered[start : start + per_thread] for start in range(0, n, per_thread)]

        for unreadable in self._pool.map(decode_jobs, jobs):
            if unreadable and self.strict:
                raise MtlError(next(iter(unreadable.values())))
        every = np.arange(n)
        taken = {name: stored.take(every) for name, stored in aligned.items()}
        return CachedSamples(torch.from_numpy(pixels), taken)


def open_images(
    decode: Decode,
    n: int,
    size: tuple[int, int],
    progress: Progress | None = None,
    check: Callable[[Unreadable], None] | None = None,
    memory: int | None = None,
    columns: Mapping[str, LabelColumn] | None = None,
) -> tuple[ImageCache, Unreadable]:
    """Decode the samples 0 ... n-1 once and return their cache and the unreadable samples.

    The cache is in memory if images, maps and points fit into `memory` bytes, and on demand
    otherwise. In memory, an unreadable image is all zeros; on demand, taking it raises MtlError.

    size: height and width of the cached images, in pixels.
    check: called with all unreadable samples so far whenever new ones appear. It may raise MtlError
        to stop the reading.
    memory: a limit in bytes (default: `memory_budget()`).
    columns: the maps and points that tasks read, by name. Others are not kept.
    """
    columns = columns or {}
    n_bytes = n * 3 * size[0] * size[1]
    n_bytes += sum(column.n_bytes(size) for column in columns.values())
    limit = memory_budget() if memory is None else memory
    if n_bytes > limit:
        unreadable = _read_all(
            _DecodeOnly(decode),
            n,
            "checking images",
            progress,
            check,
        )
        return OnDemandImageCache(decode, size, columns), unreadable

    pixels = torch.zeros(n, 3, *size, dtype=torch.uint8)
    aligned = {name: StoredLabels.of(column, size) for name, column in columns.items()}
    fill = _DecodeInto(decode, size, pixels.numpy(), aligned)
    unreadable = _read_all(fill, n, "reading images", progress, check)
    return MemoryImageCache(pixels, aligned), unreadable


def cache_size(
    decode: Decode,
    n: int,
    size: tuple[int, int],
    configured: tuple[int, int] | None,
) -> tuple[int, int]:
    """Return the size of the cached images: `configured`, or 1.5 x `size` if that is None.

    It is never larger than the largest rectangle with the aspect ratio of `size` among the images,
    so that no image is enlarged needlessly. At most 64 evenly spaced samples are decoded to find
    that rectangle; unreadable ones are skipped.
    """
    desired = configured or (round(1.5 * size[0]), round(1.5 * size[1]))
    largest = (0, 0)
    for index in _probes(n):
        try:
            image = decode(index).image
        except MtlError:
            continue
        height, width = image.shape[:2]
        largest = max(largest, largest_of_ratio((height, width), size))
        if largest[0] >= desired[0] and largest[1] >= desired[1]:
            break
    if largest == (0, 0):
        return desired
    return min(desired[0], largest[0]), min(desired[1], largest[1])


def _probes(n: int) -> list[int]:
    """Return up to `PROBES` evenly spaced sample indices out of 0 ... n-1."""
    if not n:
        return []
    spaced = np.linspace(0, n - 1, min(n, PROBES)).round().astype(np.int64)
    return np.unique(spaced).tolist()


def memory_budget() -> int:
    """Return the bytes that the images of one process may take.

    That is half of the usable memory, divided by the number of processes on this machine.
    """
    return usable_memory() // 2 // local_processes()


def local_processes() -> int:
    """Return how many processes of this run share the memory of this machine."""
    # torchrun sets LOCAL_WORLD_SIZE. Fabric's own launcher sets WORLD_SIZE only.
    processes = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE")
    return max(1, int(processes or 1))


def usable_memory() -> int:
    """Return the memory of this machine in bytes, or the limit of its container if it is lower."""
    if not hasattr(os, "sysconf"):  # Windows: unknown
        return sys.maxsize
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _cgroup_limits():
        try:
            limit = file.read_text().strip()
        except OSError:  # a group that this container does not see
            continue
        if limit.isdecimal():  # "max": no limit
            limits.append(int(limit))
    return min(limits)


def _cgroup_limits() -> Iterator[Path]:
    """Yield the files with the memory limits of this process's control group and its parents."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:  # another operating system
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder, name = CGROUPS, "memory.max"  # version 2
        if controllers:
            folder, name = CGROUPS / "memory", "memory.limit_in_bytes"
        if controllers and "memory" not in controllers.split(","):
            continue
        own = folder / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(folder):
                yield group / name


def threads() -> int:
    """Return how many threads decode: one for each core of this process, at most eight."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(8, cores)


# ------------------------------------------------------------ reading


@frozen(eq=False)
class _DecodeInto:
    """Decodes a sample into its position of one array `pixels` (n, 3, h, w), and its labels.

    Several threads may call it at once, since no two of them share a position.
    """

    decode: Decode
    size: tuple[int, int]
    pixels: np.ndarray
    aligned: Mapping[str, StoredLabels]

    def __call__(self, position: int, index: int) -> None:
        sample = self.decode(index)
        center = shrink(sample.image, self.size, enlarge=True)
        self.pixels[position] = center.transpose(2, 0, 1)
        for name, stored in self.aligned.items():
            stored.write(position, name, sample)


@frozen(eq=False)
class _DecodeOnly:
    """Decodes an image to find out whether it can be read, and discards the pixels."""

    decode: Decode

    def __call__(self, position: int, index: int) -> None:
        self.decode(index)


def _run_jobs(read: Callable[[int, int], None], jobs: Jobs) -> Unreadable:
    """Call `read(position, index)` for every job and return the unreadable samples."""
    unreadable: Unreadable = {}
    for position, index in jobs:
        try:
            read(position, index)
        except MtlError as error:
            unreadable[index] = str(error)
    return unreadable


def _read_all(
    read: Callable[[int, int], None],
    n: int,
    activity: str,
    progress: Progress | None,
    check: Callable[[Unreadable], None] | None,
) -> Unreadable:
    unreadable: Unreadable = {}
    for done, new in _in_chunks(partial(_run_jobs, read), n):
        unreadable |= new
        if new and check:
            check(unreadable)
        if progress:
            progress(activity, done, n)
    return unreadable


def _in_chunks(run: Callable[[Jobs], Unreadable], n: int) -> Iterator[tuple[int, Unreadable]]:
    """Run the jobs of all n samples and yield after each chunk, in the order of the samples.

    Each item is the number of samples done so far and the unreadable samples of the last chunk.
    """
    chunks: list[Jobs] = []
    for start in range(0, n, CHUNK):
        stop = min(n, start + CHUNK)
        chunks.append([(index, index) for index in range(start, stop)])

    # The first two chunks are timed: tiny images are read faster by a single thread.
    fastest_s = math.inf
    for number, chunk in enumerate(chunks[:2], 1):
        begin_s = time.perf_counter()
        unreadable = run(chunk)
        elapsed_s = time.perf_counter() - begin_s
        fastest_s = min(fastest_s, elapsed_s / len(chunk))
        yield min(n, number * CHUNK), unreadable

    workers = threads() if fastest_s > WORTH_A_THREAD_S else 1
    with ThreadPoolExecutor(workers, "decode") as pool:
        try:
            for number, unreadable in enumerate(pool.map(run, chunks[2:]), 3):
                yield min(n, number * CHUNK), unreadable
        finally:
            # If the caller stops early, the remaining chunks must not be decoded.
            pool.shutdown(wait=False, cancel_futures=True)
