"""What the commands share: one console, and JSON that any reader takes."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

console = Console()


def say(line: str) -> None:
    """One line for a person. It is never broken: what is typed or opened next, a command or a path, must be whole."""
    console.print(Text(line), soft_wrap=True)


def print_json(value: Any) -> None:
    """Indented JSON on stdout; what is no finite number becomes null, since JSON knows none."""
    from ..runs import finite

    print(json.dumps(finite(value), indent=2))
