"""The figures about augmentation in the docs are those of the committed runs."""

from __future__ import annotations

import csv
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[2]
T_95 = 4.302653  # two degrees of freedom


def accuracies(arm: str) -> list[float]:
    """Return the accuracies on test in %, in the order of the seeds."""
    with (ROOT / "benchmarks" / "results" / "augment-cifar10.csv").open() as file:
        return [100 * float(row["test"]) for row in csv.DictReader(file) if row["arm"] == arm]


def difference(arm: str, baseline: str) -> str:
    pairs = [a - b for a, b in zip(accuracies(arm), accuracies(baseline), strict=True)]
    half = T_95 * stdev(pairs) / sqrt(len(pairs))
    middle = mean(pairs)
    return f"{middle:+.2f} [{middle - half:+.2f}, {middle + half:+.2f}]"


def test_the_table_of_cifar10_follows_from_its_runs():
    page = (ROOT / "docs" / "mixing.md").read_text(encoding="utf-8")
    arms = {
        "`none`": "none",
        "`weak`": "weak",
        "`general`": "general",
        '`general`, `mix = "mixup"`': "general_mixup",
    }
    for shown, arm in arms.items():
        found = accuracies(arm)
        cells = [shown, str(len(found)), f"{mean(found):.2f} +- {stdev(found):.2f}"]
        baselines = [name for name in ("none", "weak") if arm not in ("none", name)]
        cells += [difference(arm, baseline) for baseline in baselines]
        assert f"| {' | '.join(cells)} |" in page
    assert difference("general_mixup", "general") in page
