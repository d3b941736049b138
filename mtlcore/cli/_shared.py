"""Printing: the console of all commands, and JSON."""

from __future__ import annotations

import json

from rich import get_console
from rich.text import Text

console = get_console()


def print_line(line: str) -> None:
    """Print one line as it is, without markup and without wrapping.

    Users copy commands and paths from these lines, so they must stay in one piece.
    """
    console.print(Text(line), soft_wrap=True)


def print_json(value: object) -> None:
    """Print indented JSON on stdout. NaN and infinity become null: JSON has neither."""
    from ..runs import finite

    print(json.dumps(finite(value), indent=2))


def json_line(value: object) -> str:
    """Return JSON on one line. NaN and infinity become null."""
    from ..runs import finite

    return json.dumps(finite(value))
