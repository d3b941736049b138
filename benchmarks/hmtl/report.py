"""The table of a protocol: mean, spread, and paired differences with t intervals; a plot of the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from .plan import Plan, Row

CONFIDENCE = 0.95


@frozen
class Spread:
    """Of n figures, in points. low, high: the t interval of the mean (None below two figures)."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.std is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} +- {self.std:.2f}"

    @property
    def difference(self) -> str:
        """As a signed difference with its interval."""
        if self.low is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation (n - 1) and the 95 % t interval of the mean."""
    from scipy import stats

    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Spread(len(x), float(x.mean()), None, None, None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return Spread(len(x), float(x.mean()), float(x.std(ddof=1)), float(x.mean()) - half, float(x.mean()) + half)


def paired(mine: dict[int, float], others: dict[int, float]) -> Spread | None:
    """Of the differences at the seeds that both have; None where there is none."""
    seeds = sorted(mine.keys() & others.keys())
    return spread([mine[s] - others[s] for s in seeds]) if seeds else None


def figures(rows: Sequence[Row], stage: str, arm: str, split: str, metric: str) -> dict[int, float]:
    """seed -> points (100 x the figure)."""
    mine = [r for r in rows if r["stage"] == stage and r["arm"] == arm and split in r]
    return {r["seed"]: 100 * r[split][metric] for r in mine if metric in r[split]}


def table(plan: Plan) -> str:
    """Markdown: what was tuned, then every arm that was trained at full length, then what was not run."""
    return "\n\n".join([_trials(plan), _arms(plan), *_extras(plan), _not_run(plan)])


def _trials(plan: Plan) -> str:
    lines = ["| arm | trial | validation | chosen |", "|---|---|---|---|"]
    for run in plan.runs(["tune", "semi"]):
        value = plan.results.value(run)
        if run.stage == "tune" and value is not None:
            chosen = "yes" if plan.trial(run.arm) == run.trial else ""
            lines.append(f"| {run.arm.name} | {', '.join(run.arm.trials[run.trial])} | {100 * value:.2f} | {chosen} |")
    return "\n".join(lines)


def _arms(plan: Plan) -> str:
    rows, metric = plan.results.rows, plan.results.metric
    names = dict.fromkeys(r["arm"] for r in rows if r["stage"] == "main")
    rivals = [a.name for a in plan.role("@equal_compute")]
    lines = [
        "| arm | seeds | CPU s | encoder forwards | validation | test, last step | test, best on validation | over SL, equal steps "
        "| over SL, equal compute |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        mine = [r for r in rows if r["stage"] == "main" and r["arm"] == name]
        splits = {s: figures(rows, "main", name, s, metric) for s in ("validation", "test", "test_best")}
        cost = f"{np.mean([r['cpu_s'] for r in mine]):.0f} | {np.mean([r['encoded'] for r in mine]):.0f}"
        over = [_over(splits["test"], rows, rival, metric, name) for rival in ("sl", *(rivals or ["-"]))]
        cells = " | ".join(str(spread(list(v.values()))) if v else "" for v in splits.values())
        lines.append(f"| {name} | {len(mine)} | {cost} | {cells} | {' | '.join(over)} |")
    return "\n".join(lines)


def _over(mine: dict[int, float], rows: Sequence[Row], rival: str, metric: str, name: str) -> str:
    found = paired(mine, figures(rows, "main", rival, "test", metric)) if rival != name else None
    return found.difference if found else ""


def _extras(plan: Plan) -> list[str]:
    tables = []
    for extra in plan.protocol.extras:
        mine = [r for r in plan.results.rows if r["stage"] == extra.name]
        if not mine:
            continue
        metrics = [m for m in mine[0]["test"] if "/" in m][:1]
        lines = [f"| {extra.name} | seeds | {metrics[0]} | over sl |", "|---|---|---|---|"]
        for name in dict.fromkeys(r["arm"] for r in mine):
            values = figures(mine, extra.name, name, "test", metrics[0])
            over = paired(values, figures(mine, extra.name, "sl", "test", metrics[0])) if name != "sl" else None
            said = spread(list(values.values()))
            lines.append(f"| {name} | {len(values)} | {said} | {over.difference if over else ''} |")
        tables.append("\n".join(lines))
    return tables


def _not_run(plan: Plan) -> str:
    missing = [run.name for run in plan.runs() if plan.results.row(run) is None]
    return f"Not run: {', '.join(missing) if missing else 'nothing'}."


def plot(plan: Plan, file: Path) -> None:
    """Test figures of the arms at full length: a point a seed, a bar for the mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, metric = plan.results.rows, plan.results.metric
    names = list(dict.fromkeys(r["arm"] for r in rows if r["stage"] == "main"))
    values: dict[str, Any] = {name: list(figures(rows, "main", name, "test", metric).values()) for name in names}
    values = dict(sorted(((k, v) for k, v in values.items() if v), key=lambda kv: float(np.mean(kv[1]))))
    figure, axes = plt.subplots(figsize=(8, 0.5 + 0.35 * len(values)))
    for y, points in enumerate(values.values()):
        axes.plot(points, [y] * len(points), "o", color="tab:blue", alpha=0.5)
        axes.plot([np.mean(points)] * 2, [y - 0.3, y + 0.3], color="black")
    axes.set_yticks(range(len(values)), list(values))
    axes.set_xlabel(f"{metric}, % of the test rows")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
