"""The page docs/responsible-use.md, which packages hold a copy of and `mtl serve` shows."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
NAME = "responsible-use.md"


def responsible_use() -> str:
    """Return the page as Markdown. The wheel holds a copy beside this module."""
    packaged = HERE / NAME
    source = packaged if packaged.exists() else HERE.parents[1] / "docs" / NAME
    return source.read_text(encoding="utf-8")
