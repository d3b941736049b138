"""How a run stops: signals as a request, and what all ranks agree on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from attrs import define

from ..files import in_shell
from ..networks import sum_over_ranks
from ..signals import handling

# SIGHUP: the terminal was closed. SIGUSR1: a batch system announces the end of the job (Slurm:
# --signal=USR1@120). Windows lacks some of them.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Interrupted(Exception):  # noqa: N818 - not an error: a user stopped the run
    """A signal stopped the run, and it was saved at this step.

    signal: its number, or None if another process of the run got it.
    """

    def __init__(self, run: Path, step: int, signal: int | None = None) -> None:
        command = f"mtl train --resume {in_shell(run)}"
        super().__init__(f"stopped at step {step} and saved; resume with: {command}")
        self.signal = signal

    @property
    def exit_code(self) -> int:
        """The exit code: 128 plus the number of the signal, as in shells. 130 for Ctrl-C."""
        return 128 + (self.signal or signal.SIGTERM)


@define
class StopRequest:
    """signal: the number of the signal that asked to stop, or None."""

    signal: int | None = None


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Yield a request that the first stop signal sets. The current step is then finished.

    A second Ctrl-C stops at once. Other signals never do: a closed terminal can send several.
    Another signal that the process ignores stays ignored, so `nohup` works.
    """
    stop = StopRequest()

    def request_stop(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            stop.signal = stop.signal or number
        elif stop.signal == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            stop.signal = number

    numbers: list[int] = []
    for number in STOP_SIGNALS:
        # Scripts start background jobs with SIGINT ignored, which is not what a user asked for.
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            numbers.append(number)
    with handling(numbers, request_stop):
        yield stop


def agree(stop: bool, ended: bool, device: torch.device) -> tuple[bool, bool]:
    """Whether any rank got a signal, and whether any rank ended the run. All ranks must call it."""
    flags = torch.tensor([float(stop), float(ended)], device=device)
    stop, ended = (sum_over_ranks(flags) > 0).tolist()
    return stop, ended
