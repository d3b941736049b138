"""Tables of the committed speed benchmarks: one section for each machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtlcore.study.tables import Table

Suite = dict[str, Any]
"""One file of benchmarks/results."""

LEVELS = {
    "losses (`uncertainty`)": "loss_level_k",
    'gradients (UPGrad), `at = "features"`': "features_k",
    'gradients (UPGrad), `at = "parameters"`, `every = 1`': "parameters_k",
}
"""What a strategy reads, and the one that was measured -> the rows, up to the number of losses."""
SUFFIX = " in sums"
"""Rows of weighting.json that compare with the sum of losses, not with K backward passes."""


def suites(folder: Path) -> list[Suite]:
    """Return the suites that have a machine and rows with a ratio, by file name.

    Other files hold no suite; the rows of the suite `gpu` are no ratios.
    """
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return [suite for suite in found if "machine" in suite and _has_ratios(suite)]


def _has_ratios(suite: Suite) -> bool:
    return "suite" in suite and all({"ratio", "low", "high"} <= row.keys() for row in suite["rows"])


def machine(suite: Suite) -> str:
    """Return the machine of a suite in one line."""
    facts = dict(suite["machine"])
    threads = facts.pop("threads", None)
    words = [str(facts.pop(key)) for key in ("device", "processor", "system") if key in facts]
    words += [f"{key} {value}" for key, value in facts.items()]
    if threads is not None:
        words.append("1 thread" if threads == 1 else f"{threads} threads")
    return ", ".join(words)


def machines(folder: Path) -> str:
    """Return one row for each machine: which suites ran there, and when."""
    lines = []
    for name in dict.fromkeys(map(machine, suites(folder))):
        mine = [suite for suite in suites(folder) if machine(suite) == name]
        dates = ", ".join(sorted({suite["date"] for suite in mine}))
        lines.append((name, ", ".join(f"`{suite['suite']}`" for suite in mine), dates))
    return Table("", ("machine", "suites", "date"), tuple(lines)).markdown()


def speed(folder: Path) -> str:
    """Return the rows of all suites, by machine."""
    parts = []
    for name in dict.fromkeys(map(machine, suites(folder))):
        parts.append(f"### {name}\n")
        for suite in suites(folder):
            if machine(suite) == name:
                parts += [f"`{suite['command']}`\n", _rows(suite) + "\n"]
    return "\n".join(parts)


def _rows(suite: Suite) -> str:
    lines = []
    for row in suite["rows"]:
        gate = "" if row.get("gate") is None else f"{row['gate']:.2f}"
        if gate and row["ratio"] > row["gate"]:
            gate += ", missed"
        quartiles = f"{row['low']:.2f} - {row['high']:.2f}"
        lines.append((row["name"], row["baseline"], f"{row['ratio']:.2f}", quartiles, gate))
    columns = ("row", "relative to", "ratio", "quartiles", "gate")
    return Table("", columns, tuple(lines)).markdown()


def weighting_cost(folder: Path) -> str:
    """Return the time of a step relative to the sum of losses, for 2, 3 and 5 losses."""
    suite = json.loads((folder / "weighting.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in suite["rows"]}
    lines = []
    for text, prefix in LEVELS.items():
        cells = [_cost(rows, f"{prefix}{losses}") for losses in (2, 3, 5)]
        lines.append((text, *cells))
    lines.append(
        (
            'gradients (UPGrad), `at = "parameters"`, `every = 10`',
            "",
            "",
            _cost(rows, "parameters_every10_k5"),
        )
    )
    title = f"{machine(suite)}, {suite['date']}, quartiles in brackets"
    columns = ("what the strategy reads", "2 losses", "3 losses", "5 losses")
    return f"{title}:\n\n" + Table("", columns, tuple(lines)).markdown()


def _cost(rows: dict[str, Any], name: str) -> str:
    row = rows.get(name + SUFFIX, rows.get(name))
    if row is None or row["baseline"] != "summed loss by hand":
        return "not known"
    return f"{row['ratio']:.2f} x [{row['low']:.2f}, {row['high']:.2f}]"
