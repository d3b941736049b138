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


def robustness(rows: Sequence[Row], baseline_of: Callable[[str], str]) -> str:
    """Return one line for each arm: means over seeds, and differences from its baseline.

    baseline_of: protocol -> the arm that the others are compared with. It comes first.
    """
    by_arm: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        by_arm.setdefault((row["protocol"], row["stage"], row["arm"]), []).append(row)

    def baseline_first(key: tuple[str, str, str]) -> tuple[str, str, bool]:
        protocol, stage, arm = key
        return protocol, stage, arm != baseline_of(protocol)

    lines = []
    for protocol, stage, arm in sorted(by_arm, key=baseline_first):
        mine = by_arm[protocol, stage, arm]
        other = by_arm.get((protocol, stage, baseline_of(protocol)), [])
        cells = [_cell(mine, [] if other is mine else other, key) for key in COLUMNS]
        lines.append((f"`{protocol}`", f"`{arm}`", str(len(mine)), *cells))
    columns = ("protocol", "arm", "seeds", *COLUMNS.values())
    return Table("", columns, tuple(lines)).markdown()


def _cell(mine: Sequence[Row], other: Sequence[Row], key: str) -> str:
    values = _by_seed(mine, key)
    shown = f"{mean(values.values()):.1f}"
    difference = paired(values, _by_seed(other, key))
    return f"{shown} ({difference.signed(1)})" if difference else shown


def _by_seed(rows: Sequence[Row], key: str) -> dict[int, float]:
    """Return seed -> value; of a list, its mean."""
    values = {row["seed"]: row[key] for row in rows}
    return {seed: mean(v) if isinstance(v, list) else v for seed, v in values.items()}
