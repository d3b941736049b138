"""SIGTERM and SIGHUP end a command as Ctrl-C does: temporary files are removed on the way out."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from types import FrameType

from ..signals import handling

NAMES = ("SIGTERM", "SIGHUP")  # Windows lacks the second one


def signals_end_the_command() -> AbstractContextManager[None]:
    """Raise SystemExit at a signal, with 128 plus its number. Training and serving have other ways.

    A signal that the process ignores stays ignored, and a handler of a caller stays.
    """
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    return handling([n for n in numbers if signal.getsignal(n) is signal.SIG_DFL], _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
