"""Committed rows of dense and point tasks, and their tables."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from mtlcore.study.tables import Table

RESULTS = Path(__file__).resolve().parent / "results"
FILE = RESULTS / "dense-miou.jsonl"  # of `run.py dense-miou`
FACES = RESULTS / "landmarks-pose.jsonl"  # of examples/landmarks.toml, as docs/dense.md says
Rows = list[dict[str, Any]]


def read(file: Path) -> Rows:
    """Return the rows of a file, none if there is no file."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in lines]


def table(rows: Rows) -> str:
    """Return the mIoU of each side: its mean and its values, and the differences from ours."""
    by_side: dict[str, dict[int, float]] = {}
    for row in rows:
        by_side.setdefault(row["side"], {})[row["seed"]] = 100 * row["miou"]
    mine = by_side.get("ours", {})
    lines = []
    for side, values in by_side.items():
        shared = sorted(values.keys() & mine)
        gaps = ", ".join(f"{mine[seed] - values[seed]:+.2f}" for seed in shared)
        of_seeds = ", ".join(f"{values[seed]:.2f}" for seed in sorted(values))
        lines.append((side, f"{statistics.mean(values.values()):.2f}", of_seeds, gaps))
    columns = ("side", "mIoU, %", "of each seed", "ours minus this side")
    return Table("", columns, tuple(lines)).markdown()


def alone_and_together(rows: Rows) -> str:
    """Return the validation metrics of each arm: their means, and the values of each seed."""
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        lines.append((arm, _mean_and_values(mine, "nme"), _mean_and_values(mine, "pose_mae_deg")))
    return Table("", ("arm", "NME", "MAE of the pose, degrees"), tuple(lines)).markdown()


def _mean_and_values(rows: Rows, key: str) -> str:
    values = [row[key] for row in rows if key in row]
    if not values:
        return ""
    return f"{statistics.mean(values):.3g} ({', '.join(f'{value:.3g}' for value in values)})"
