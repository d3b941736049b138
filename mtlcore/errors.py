"""The error that a user can fix, and suggestions for unknown names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", re.DOTALL)
"""Codes that color a terminal, or do worse. torch, and names of files, can hold them."""


class MtlError(Exception):
    """A mistake that a user can fix.

    The message names what is wrong, where (file, key, plugin), the value, the expected value, and
    the nearest valid name. The command line prints it without a traceback and exits with
    `exit_code`. The escape codes of a quoted message are removed.
    """

    exit_code: ClassVar[int] = 2

    def __str__(self) -> str:
        return _ESCAPES.sub("", super().__str__())


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name.

    It suggests the nearest known name and lists all of them:
    nearest("gird", ["tag", "grid"]) -> "did you mean 'grid'? known: grid, tag".
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(names) if names else "none"
    return f"{hint}known: {listed}"


def first_few(names: Sequence[str], n: int) -> str:
    """Join the first n names, with "..." if there are more."""
    text = ", ".join(names[:n])
    return f"{text}, ..." if len(names) > n else text
