"""The table of component kinds, for all code that lists or names them.

Base classes are in `contracts` (`BASES`), checks in `testing`, templates in `authoring`. This
module imports neither torch nor these packages, so that the command line starts fast.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

KindName = Literal[
    "pretext",
    "task",
    "encoder",
    "weighting",
    "optimizer",
    "dataset",
    "augmentation",
    "callback",
    "detector",
]
"""The name of a kind, in the order of the documentation."""

CheckedKind = Literal[
    "pretext",
    "task",
    "encoder",
    "weighting",
    "optimizer",
    "dataset",
    "augmentation",
    "detector",
]
"""A kind that the conformance kit checks, and of which `mtl plugins new` creates a plugin."""


@frozen
class Kind:
    """One kind.

    table: its table in a configuration; "" for a kind that takes no part in training.
    labeled: its tables have a label, [<table>.<label>].
    """

    name: KindName
    table: str
    labeled: bool = False

    def title(self, label: str) -> str:
        """Return the heading of a component's table, such as "[data.fer]"."""
        return f"[{self.table}.{label}]" if self.labeled else f"[{self.table}]"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("pretext", "pretext", labeled=True),
        Kind("task", "task", labeled=True),
        Kind("encoder", "encoder"),
        Kind("weighting", "weighting"),
        Kind("optimizer", "optimizer"),
        Kind("dataset", "data", labeled=True),
        Kind("augmentation", "augment"),
        Kind("callback", "callback", labeled=True),
        Kind("detector", ""),
    )
}
"""Name -> kind."""
