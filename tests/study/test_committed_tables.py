"""The tables of the committed studies say what their rows say, computed here without the engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from scipy import stats

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
COLUMNS = {"validation": "validation", "test, last step": "test"}
COLUMNS["test, best on validation"] = "test_best"
COLUMNS["validation, last step"] = "validation"  # of a study whose test split was not read


def arms_table(text: str) -> list[dict[str, str]]:
    """The table with one row for each arm: column -> cell."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| arm | seeds"))
    names = [cell.strip() for cell in lines[first].strip("|").split("|")]
    rows: list[dict[str, str]] = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")))))
    return rows


def by_seed(rows: list[dict], arm: str, split: str, metric: str) -> dict[int, float]:
    """Seed -> points, of the trial with the best validation metric of the tuning."""
    tuned = [r for r in rows if (r["stage"], r["arm"]) == ("tune", arm)]
    best = max(tuned, key=lambda r: r["validation"][metric], default=None)
    mine = [r for r in rows if (r["stage"], r["arm"]) == ("main", arm) and metric in r[split]]
    return {
        r["seed"]: 100 * r[split][metric]
        for r in mine
        if best is None or r["trial"] == best["trial"]
    }


def mean_and_sd(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} +- {np.std(values, ddof=1):.2f}"


def mean_and_interval(differences: list[float]) -> str:
    mean = float(np.mean(differences))
    if len(differences) == 1:
        return f"{mean:+.2f}"
    low, high = stats.t.interval(0.95, len(differences) - 1, loc=mean, scale=stats.sem(differences))
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def test_means_deviations_and_paired_intervals_of_the_committed_tables_follow_from_the_rows(
    subtests,
):
    cells = 0
    for folder in sorted(file.parent for file in RESULTS.glob("*/runs.jsonl")):
        text = (folder / "table.md").read_text(encoding="utf-8")
        lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        if all(row["stage"] == "tune" for row in rows):
            continue  # trials alone: no arm has a run of full length yet
        metric = re.search(r"^(\S+/\S+) in points", text, re.M)[1]
        compared = "test" if any(row.get("test") for row in rows) else "validation"
        for row in arms_table(text):
            with subtests.test(study=folder.name, arm=row["arm"]):
                for column in COLUMNS.keys() & row:
                    split = COLUMNS[column]
                    found = by_seed(rows, row["arm"], split, metric)
                    assert row[column] == mean_and_sd(list(found.values()))
                    cells += 1
                column = next(name for name in row if name.endswith("equal steps"))
                if row[column]:
                    baseline = re.fullmatch(r"over (.+), equal steps", column)[1]
                    other = by_seed(rows, baseline, compared, metric)
                    mine = by_seed(rows, row["arm"], compared, metric)
                    paired = [mine[seed] - other[seed] for seed in sorted(mine.keys() & other)]
                    assert row[column] == mean_and_interval(paired)
                    cells += 1
    assert cells > 200
