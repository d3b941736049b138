"""How a run stops: Ctrl-C and SIGTERM as a flag, and what all ranks agree on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from ..networks import sum_over_ranks

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - not an error: a user stopped the run
    """A signal stopped the run, and it was saved at this step."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; resume with: mtl train --resume {run}")


@contextmanager
def stop_flag() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that no step is left half done.

    A second Ctrl-C stops at once.
    """
    stop = threading.Event()
    # Python allows signal handlers in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, request_stop) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agree(stop: bool, ended: bool, device: torch.device) -> tuple[bool, bool]:
    """Whether any rank got a signal, and whether any rank ended the run. All ranks must call it."""
    flags = torch.tensor([float(stop), float(ended)], device=device)
    stop, ended = (sum_over_ranks(flags) > 0).tolist()
    return stop, ended
