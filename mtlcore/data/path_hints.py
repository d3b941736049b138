"""Hints about a path in a table that names no file: Windows separators, and wrong case."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path


def hint_for(path: str, root: Path) -> str | None:
    """Return the end of a message that names the file that was meant, or None if there is none.

    path: relative to `root`. It is compared without regard to case, and with "/" for each "\\".
    """
    found: list[str] = []
    for name in path.replace("\\", "/").split("/"):
        if name in ("", "."):
            continue
        actual = _names(str(root.joinpath(*found))).get(name.casefold())
        if actual is None:
            return None
        found.append(actual)
    meant = "/".join(found)
    reason = "write / instead of \\" if "\\" in path else "upper and lower case differ"
    return f"did you mean {meant!r}? ({reason})"


@lru_cache(maxsize=16)  # many paths of a table are in the same folders
def _names(folder: str) -> dict[str, str]:
    """Return the entries of a folder: their names without case -> their names."""
    try:
        return {name.casefold(): name for name in os.listdir(folder)}  # noqa: PTH208 (names)
    except OSError:
        return {}
