"""The table of docs/when-it-helps.md about corrupted images and calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

from mtlcore.study.statistics import paired
from mtlcore.study.tables import Table

Row = Mapping[str, Any]
COLUMNS = {
    "clean": "clean",
    "noise": "noise",
    "blur": "blur",
    "contrast": "contrast",
    "jpeg": "JPEG",
    "ece": "calibration error (lower is better)",
}
"""Key of a row -> heading. A list of accuracies is shown by its mean."""


Group = tuple[str, str, str]
"""Protocol, stage and arm."""


def robustness(rows: Sequence[Row], rival_of: Callable[[str, str, str], str | None]) -> str:
    """Return one line for each arm: means over seeds, and differences from its rival.

    rival_of: protocol, stage, arm -> the arm that it is compared with, if any.
    """
    groups: dict[Group, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["protocol"], row["stage"], row["arm"]), []).append(row)
    rivals = {group: rival_of(*group) for group in groups}

    def baselines_first(group: Group) -> tuple[str, str, bool]:
        protocol, stage, _ = group
        return protocol, stage, rivals[group] is not None

    lines = []
    for group in sorted(groups, key=baselines_first):
        protocol, stage, arm = group
        mine, other = groups[group], groups.get((protocol, stage, rivals[group] or ""), [])
        cells = [_cell(mine, other, key) for key in COLUMNS]
        lines.append((f"`{protocol}`", stage, f"`{arm}`", str(len(mine)), *cells))
    columns = ("protocol", "stage", "arm", "seeds", *COLUMNS.values())
    return Table("", columns, tuple(lines)).markdown()


def _cell(mine: Sequence[Row], other: Sequence[Row], key: str) -> str:
    values = _by_seed(mine, key)
    shown = f"{mean(values.values()):.1f}"
    difference = paired(values, _by_seed(other, key))
    if difference is None:
        return shown
    fewer = "" if difference.n == len(values) else f", n = {difference.n}"
    return f"{shown} ({difference.signed(1)}{fewer})"


def _by_seed(rows: Sequence[Row], key: str) -> dict[int, float]:
    """Return seed -> value; of a list, its mean."""
    values = {row["seed"]: row[key] for row in rows}
    return {seed: mean(v) if isinstance(v, list) else v for seed, v in values.items()}
