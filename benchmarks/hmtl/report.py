"""The table of a protocol: mean, spread, and paired differences with t intervals; a plot of the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from .plan import Plan, Row, key_of, name_of
from .protocol import CONTROLS

CONFIDENCE = 0.95
SAME = 1.25  # times the baseline's encoder forwards: still the same compute


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
    return Spread(
        len(x),
        float(x.mean()),
        float(x.std(ddof=1)),
        float(x.mean()) - half,
        float(x.mean()) + half,
    )


def paired(mine: dict[int, float], others: dict[int, float]) -> Spread | None:
    """Of the differences at the seeds that both have; None where there is none."""
    seeds = sorted(mine.keys() & others.keys())
    return spread([mine[s] - others[s] for s in seeds]) if seeds else None


def figures(
    rows: Sequence[Row], arm: str, split: str, metric: str, scale: float = 100.0
) -> dict[int, float]:
    """seed -> the figure times `scale`: shares as points."""
    return {
        r["seed"]: scale * r[split][metric]
        for r in rows
        if r["arm"] == arm and metric in r.get(split, {})
    }


def table(plan: Plan) -> str:
    """Markdown: what was made where, what was tuned, every arm, what decides, the extras, then what was not run."""
    parts = [
        _made(plan),
        _trials(plan),
        _arms(plan),
        _decisive(plan),
        *_extras(plan),
        _left_out(plan),
        _not_run(plan),
    ]
    return "\n\n".join(filter(None, parts))


def _made(plan: Plan) -> str:
    p, rows = plan.protocol, plan.results.rows
    facts = {
        key: sorted({str(r[key]) for r in rows if key in r})
        for key in ("date", "device", "torch", "threads", "commit")
    }
    where = "; ".join(f"{key} {', '.join(values)}" for key, values in facts.items() if values)
    cost = sum(r["cpu_s"] for r in rows)
    return (
        f"`python benchmarks/run.py hmtl --protocol {p.name}`: {len(rows)} runs, {cost:,.0f} CPU s; {where}.\n\n"
        f"{p.metric} in points, mean +- standard deviation over seeds; differences are paired by seed, with 95 % t intervals "
        f"of their mean. Trials: {p.tune_steps} steps, seed {p.tune_seed}, validation. Equal compute: encoder forwards."
    )


def _trials(plan: Plan) -> str:
    lines = ["| arm | trial | validation | chosen |", "|---|---|---|---|"]
    for run in plan.runs(["tune", "semi"]):
        value = plan.results.value(run)
        if run.stage == "tune" and value is not None:
            chosen = "yes" if plan.trial(run.arm) == run.trial else ""
            lines.append(
                f"| {run.arm.name} | {', '.join(run.arm.trials[run.trial])} | {100 * value:.2f} | {chosen} |"
            )
    return "\n".join(lines)


def _arms(plan: Plan) -> str:
    rows, metric, baseline = _main(plan), plan.results.metric, plan.protocol.baseline
    over = f"over {baseline}, equal steps | over {baseline}, equal compute"
    lines = [
        f"| arm | seeds | steps | encoder forwards | validation | test, last step | test, best on validation | {over} "
        "| seeds made on (CPU s a run) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(r["arm"] for r in rows):
        mine = [r for r in rows if r["arm"] == name]
        splits = {s: figures(rows, name, s, metric) for s in ("validation", "test", "test_best")}
        cells = " | ".join(str(spread(list(v.values()))) if v else "" for v in splits.values())
        same_steps = baseline if mine[0]["steps"] == round(plan.protocol.steps) else None
        differences = " | ".join(
            _over(rows, name, rival, metric)
            for rival in (same_steps, equal_compute(plan, rows, name))
        )
        lines.append(
            f"| {name} | {len(mine)} | {mine[0]['steps']} | {_forwards(rows, name):.0f} | {cells} | {differences} "
            f"| {_devices(mine)} |"
        )
    return "\n".join(lines)


def _devices(rows: Sequence[Row]) -> str:
    """Which seeds were made on which device, and at what cost: figures differ by rounding, seconds by speed."""
    on: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda r: r["seed"]):
        on.setdefault(row["device"].removeprefix("x86_64 ").removeprefix("NVIDIA "), []).append(row)
    return "; ".join(
        f"{device}: {', '.join(str(r['seed']) for r in found)} ({np.mean([r['cpu_s'] for r in found]):.0f})"
        for device, found in on.items()
    )


def equal_compute(plan: Plan, rows: Sequence[Row], name: str) -> str | None:
    """The arm that stands for the baseline given what `name` costs, by encoder forwards; None for those arms themselves."""
    baseline = plan.protocol.baseline
    if name in (baseline, *plan.protocol.equal_compute):
        return None
    if _forwards(rows, name) >= SAME * _forwards(rows, baseline):
        return next((arm.name for arm in plan.role("@equal_compute")), None)
    return baseline


def _decisive(plan: Plan) -> str:
    """Paired differences that say where a gain comes from: over an arm's controls, over what else is done with the same rows."""
    rows, metric = _main(plan), plan.results.metric
    names = list(dict.fromkeys(r["arm"] for r in rows))
    controls = [
        (name.rpartition("+")[0], name) for name in names if name.rpartition("+")[2] in CONTROLS
    ]
    rivals = [arm.name for arm in plan.of_kind("rival") if arm.name in names]
    pairs = controls + [(leader, rival) for leader in _leaders(plan) for rival in rivals]
    lines = ["| arm | over | pairs | difference on test |", "|---|---|---|---|"]
    for mine, other in pairs:
        found = paired(figures(rows, mine, "test", metric), figures(rows, other, "test", metric))
        if found:
            lines.append(f"| {mine} | {other} | {found.n} | {found.difference} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _leaders(plan: Plan) -> list[str]:
    """The best of each kind, then what is close to the best."""
    best = [arm for role in ("@one_view", "@labeled", "@best") for arm in plan.role(role)]
    return list(dict.fromkeys(arm.name for arm in (*best, *plan.close()) if arm.kind != "rival"))


def _main(plan: Plan) -> list[Row]:
    return _of(plan, "main")


def _of(plan: Plan, stage: str) -> list[Row]:
    """The rows of a stage whose arm has the trial that it was given in the end."""
    return [r for r in plan.results.rows if r["stage"] == stage and not _superseded(plan, r)]


def _superseded(plan: Plan, row: Row) -> bool:
    """Whether the row is of a trial that was the best only until a later one came: no seed of an arm has two figures."""
    return row["stage"] != "tune" and plan.trial(plan.arm(row["arm"])) not in (None, row["trial"])


def _forwards(rows: Sequence[Row], arm: str) -> float:
    found = [r["encoded"] for r in rows if r["arm"] == arm]
    return float(np.mean(found)) if found else float("nan")


def _over(
    rows: Sequence[Row], name: str, rival: str | None, metric: str, scale: float = 100.0
) -> str:
    if rival is None or rival == name:
        return ""
    found = paired(
        figures(rows, name, "test", metric, scale), figures(rows, rival, "test", metric, scale)
    )
    return found.difference if found else ""


def _extras(plan: Plan) -> list[str]:
    tables, baseline = [], plan.protocol.baseline
    for extra in plan.protocol.extras:
        mine = _of(plan, extra.name)
        if not mine:
            continue
        metric, scale = plan.protocol.metric_of(extra.name), extra.scale
        lines = [
            f"| {extra.name} | seeds | {metric} on test{'' if scale == 100 else ' (lower is better)'} | over {baseline} "
            f"| over {baseline}, equal compute | seeds made on (CPU s a run) |",
            "|---|---|---|---|---|---|",
        ]
        for name in dict.fromkeys(r["arm"] for r in mine):
            values = list(figures(mine, name, "test", metric, scale).values())
            rivals = (baseline, equal_compute(plan, mine, name))
            differences = " | ".join(_over(mine, name, rival, metric, scale) for rival in rivals)
            made_on = _devices([r for r in mine if r["arm"] == name])
            lines.append(
                f"| {name} | {len(values)} | {spread(values)} | {differences} | {made_on} |"
            )
        tables.append("\n".join(lines))
    return tables


def _left_out(plan: Plan) -> str:
    rows, metric = [r for r in plan.results.rows if _superseded(plan, r)], plan.results.metric
    said = [
        f"{name_of(key_of(r))} {100 * r['test'][metric]:.2f}" for r in rows if metric in r["test"]
    ]
    return f"On test, of trials that were not chosen in the end: {', '.join(said)}." if said else ""


def _not_run(plan: Plan) -> str:
    missing = dict.fromkeys(run.name for run in plan.runs() if plan.results.row(run) is None)
    hanging = (
        f" Not named yet, since they hang on results: {', '.join(plan.unnamed())}."
        if plan.unnamed()
        else ""
    )
    return f"Not run: {', '.join(missing) if missing else 'nothing'}.{hanging}"


def plot(plan: Plan, file: Path) -> None:
    """Test figures of the arms at full length: a point a seed, a bar for the mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, metric = _main(plan), plan.results.metric
    names = dict.fromkeys(r["arm"] for r in rows)
    values: dict[str, Any] = {
        name: list(figures(rows, name, "test", metric).values()) for name in names
    }
    values = dict(
        sorted(((k, v) for k, v in values.items() if v), key=lambda kv: float(np.mean(kv[1])))
    )
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
