"""Read the batches of the next steps in a background thread, while a step computes.

    background thread     read step 1 | read step 2 | read step 3 | wait ...
    training thread       step 0 ------------------ | step 1 ---------------

One thread draws the samples, takes or decodes their images, and copies them to the device. On CUDA
the copies run on a stream of their own, beside the kernels of the step. At most `ahead` steps wait
in memory. A batch is a function of its step, so the run is the same, bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import torch

from ..contracts import Batch
from .cache import MemoryImageCache
from .loader import DirectLoader, Loader, to_device
from .run_data import RunData
from .sampler import Sampler

T = TypeVar("T")
MISSED_STEPS = 2  # steps in a row that were not read ahead, until the thread follows them


class _Ready(NamedTuple):
    """A batch that was read, and the event after its copies to a CUDA device."""

    batch: Batch
    copied: torch.cuda.Event | None


def loader_for(
    data: RunData,
    sampler: Sampler,
    device: torch.device,
    numbers: Sequence[int],
    steps: int,
    ahead: int,
) -> Loader:
    """Return the loader of one rank.

    numbers: positions of the rank's micro-batches of a step, in the order of their requests.
    steps: of the whole run. ahead: steps to read ahead; 0 is none.
    """
    direct = DirectLoader(data, sampler, device)
    # Images in memory are copied in less time than two threads need to take turns.
    only_copies = isinstance(data.images, MemoryImageCache) and device.type == "cpu"
    if not ahead or only_copies:
        return direct
    return PrefetchLoader(direct, numbers, steps, ahead)


class PrefetchLoader:
    """Reads `ahead` steps ahead, in one background thread, from the first request on.

    Requests in the order of the steps get batches that were read ahead. Any other request is read
    in the calling thread, and changes nothing. After two whole steps of other requests, the thread
    follows them. An error is raised by the request of its own batch. Arguments: see `loader_for`.
    """

    def __init__(
        self, direct: DirectLoader, numbers: Sequence[int], steps: int, ahead: int
    ) -> None:
        self._direct = direct
        self._numbers = list(numbers)
        self._positions = steps * len(self._numbers)
        self._most = ahead * len(self._numbers)
        # Its thread starts with the first job. Without `close`, it ends with this object, or with
        # the process after the jobs that wait: at most `ahead` steps.
        self._pool = ThreadPoolExecutor(1, "prefetch")
        self._reading = Lock()
        self._waiting: deque[Future[_Ready]] = deque()
        self._next: int | None = None  # position of the first batch that waits
        self._missed = 0
        self._closed = False
        cuda = direct.device.type == "cuda"
        self._stream = torch.cuda.Stream(direct.device) if cuda else None

    def batch(self, step: int, number: int) -> Batch:
        """Return one micro-batch of a step on the device of the rank, with uint8 images."""
        if self._closed or number not in self._numbers:
            return self._read_now(step, number)
        position = step * len(self._numbers) + self._numbers.index(number)
        if position != self._next:
            self._missed += 1
            if self._next is not None and self._missed <= MISSED_STEPS * len(self._numbers):
                return self._read_now(step, number)
            self._follow(position)
        self._missed = 0
        first = self._waiting.popleft()
        self._next = position + 1
        self._fill()
        return self._received(first.result())

    def close(self) -> None:
        """Stop reading ahead, without waiting. Later batches are read when they are requested."""
        self._closed = True
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _follow(self, position: int) -> None:
        """Drop what was read, and begin at this position."""
        for dropped in self._waiting:
            dropped.cancel()
        self._waiting.clear()
        self._next = position
        self._submit(position)

    def _fill(self) -> None:
        """Let the thread read until `ahead` steps wait, or to the end of the run."""
        assert self._next is not None
        last = min(self._next + self._most, self._positions)
        for position in range(self._next + len(self._waiting), last):
            self._submit(position)

    def _submit(self, position: int) -> None:
        step, at = divmod(position, len(self._numbers))
        self._waiting.append(self._pool.submit(self._read_ahead, step, self._numbers[at]))

    def _read_ahead(self, step: int, number: int) -> _Ready:
        """Read one batch, in the background thread."""
        with self._reading:
            batch = self._direct.read(step, number)
        if self._stream is None:
            return _Ready(batch, None)
        # Also selects the device of this rank, which new threads do not know.
        with torch.cuda.stream(self._stream):
            return _Ready(to_device(batch, self._direct.device), self._stream.record_event())

    def _received(self, ready: _Ready) -> Batch:
        """Return a batch that the current stream may use."""
        batch, copied = ready
        if copied is None:
            return to_device(batch, self._direct.device)
        current = torch.cuda.current_stream(self._direct.device)
        current.wait_event(copied)
        for tensor in (batch.images, *batch.targets.values(), *batch.present.values()):
            # Its memory belongs to the other stream, which must not reuse it before this one.
            tensor.record_stream(current)
        return batch

    def _read_now(self, step: int, number: int) -> Batch:
        """Read one batch in the calling thread."""
        with self._reading:
            batch = self._direct.read(step, number)
        return to_device(batch, self._direct.device)


class OneAhead(Generic[T]):
    """Reads one batch ahead, for an evaluation: the next batch of this rank.

    read: number of a batch -> the batch. batches: their number. stride: to the next one.
    The thread ends with this object. An error is raised by the request of its own batch.
    """

    def __init__(self, read: Callable[[int], T], batches: int, stride: int) -> None:
        self._read, self._batches, self._stride = read, batches, stride
        self._pool = ThreadPoolExecutor(1, "evaluation")
        self._waiting: dict[int, Future[T]] = {}

    def get(self, number: int) -> T:
        """Return a batch, and let the thread read the next one."""
        waiting = self._waiting.pop(number, None)
        batch = self._read(number) if waiting is None else waiting.result()
        for dropped in self._waiting.values():
            dropped.cancel()
        self._waiting.clear()
        following = number + self._stride
        if following < self._batches:
            self._waiting[following] = self._pool.submit(self._read, following)
        return batch
