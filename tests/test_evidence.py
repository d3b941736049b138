"""The figures in the docs are those of the committed runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
T_95 = 4.302653  # two degrees of freedom


def augmentation(arm: str) -> list[float]:
    """Return the accuracies on test in %, in the order of the seeds."""
    with (RESULTS / "augment-cifar10.csv").open() as file:
        return [100 * float(row["test"]) for row in csv.DictReader(file) if row["arm"] == arm]


def protocol(name: str, arm: str, metric: str) -> list[float]:
    """Return a metric of a protocol's main runs on test in %, in the order of the seeds."""
    rows = map(json.loads, (RESULTS / f"hmtl-{name}" / "runs.jsonl").read_text().splitlines())
    of_arm = [row for row in rows if row["stage"] == "main" and row["arm"] == arm]
    return [100 * row["test"][metric] for row in sorted(of_arm, key=lambda row: row["seed"])]


def finetuning(arm: str) -> list[float]:
    """Return the accuracies on test in %, in the order of the seeds."""
    return protocol("finetune", arm, "gender/accuracy")


def score(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} +- {stdev(values):.2f}"


def difference(ours: Sequence[float], baseline: Sequence[float]) -> str:
    pairs = [a - b for a, b in zip(ours, baseline, strict=True)]
    half = T_95 * stdev(pairs) / sqrt(len(pairs))
    middle = mean(pairs)
    return f"{middle:+.2f} [{middle - half:+.2f}, {middle + half:+.2f}]"


def test_the_table_of_augmentation_follows_from_its_runs():
    page = (ROOT / "docs" / "mixing.md").read_text(encoding="utf-8")
    arms = {
        "`none`": "none",
        "`weak`": "weak",
        "`general`": "general",
        '`general`, `mix = "mixup"`': "general_mixup",
    }
    for shown, arm in arms.items():
        found = augmentation(arm)
        cells = [shown, str(len(found)), score(found)]
        baselines = [name for name in ("none", "weak") if arm not in ("none", name)]
        cells += [difference(found, augmentation(baseline)) for baseline in baselines]
        assert f"| {' | '.join(cells)} |" in page
    assert difference(augmentation("general_mixup"), augmentation("general")) in page


def test_the_table_of_fine_tuning_follows_from_its_runs():
    page = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    arms = {
        "from scratch": "scratch",
        "`freeze = 4`": "frozen4",
        "two rates": "two_rates",
        "layer decay": "layer_decay",
    }
    for shown, arm in arms.items():
        found = finetuning(arm)
        against = difference(found, finetuning("one_rate"))
        gain = difference(finetuning(f"{arm}_puzzling"), found)
        assert f"| {shown} | {score(found)} | {against} | {gain} |" in page
    one_rate, frozen = finetuning("one_rate"), finetuning("frozen")
    gain = difference(finetuning("one_rate_puzzling"), one_rate)
    assert f"| one rate | {score(one_rate)} | | {gain} |" in page
    assert f'| `freeze = "all"` | {score(frozen)} | {difference(frozen, one_rate)} | |' in page
    theirs, ours = (
        protocol("optimizers", arm, "fer/accuracy") for arm in ("lookahead_adabelief", "adamw")
    )
    assert f"{score(theirs)} %, and AdamW {score(ours)} %" in page
    assert difference(theirs, ours) in page
