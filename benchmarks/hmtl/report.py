"""The table of a protocol as Markdown, and a plot of it.

Metrics are means over seeds with their standard deviation. Differences are paired by seed and have
95 % t intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from attrs import frozen

from .plan import Plan, Row, key_of, name_of
from .protocol import CONTROLS, Extra

CONFIDENCE = 0.95
SAME_COMPUTE = 1.25  # times the baseline's encoder forwards: below it, compute counts as equal
POINTS = 100.0  # multiplier of a share


@frozen
class Spread:
    """Mean and spread of `n` values.

    std: standard deviation (n - 1); None for one value.
    low, high: t interval of the mean; None for one value.
    """

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
        """The mean with its sign, and its interval."""
        if self.low is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def spread(values: Sequence[float]) -> Spread:
    """Return the mean, the standard deviation (n - 1) and the 95 % t interval of the mean."""
    from scipy import stats

    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(x.mean())
    if n < 2:
        return Spread(n, mean, None, None, None)
    std = x.std(ddof=1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * std / np.sqrt(n))
    return Spread(n, mean, float(std), mean - half, mean + half)


def paired(mine: Mapping[int, float], other: Mapping[int, float]) -> Spread | None:
    """Return the spread of the differences at the seeds that both have; None if there are none."""
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None
    return spread([mine[seed] - other[seed] for seed in seeds])


def metric_by_seed(
    rows: Sequence[Row], arm: str, split: str, metric: str, scale: float = POINTS
) -> dict[int, float]:
    """Return seed -> metric times `scale`, for the rows of an arm that have the metric."""
    mine = [row for row in rows if row["arm"] == arm and metric in row.get(split, {})]
    return {row["seed"]: scale * row[split][metric] for row in mine}


def table(plan: Plan) -> str:
    """Return the table as Markdown.

    It has where the runs were made, the trials, all arms, the decisive comparisons, the extras, and
    what was not run.
    """
    parts = [
        _provenance(plan),
        _trials(plan),
        _arms(plan),
        _decisive(plan),
        *_extras(plan),
        _superseded_rows(plan),
        _not_run(plan),
    ]
    return "\n\n".join(filter(None, parts))


# ------------------------------------------------------------------------------- parts of the table


def _provenance(plan: Plan) -> str:
    protocol, rows = plan.protocol, plan.results.rows
    facts: list[str] = []
    for key in ("date", "device", "torch", "threads", "commit"):
        values = sorted({str(row[key]) for row in rows if key in row})
        if values:
            facts.append(f"{key} {', '.join(values)}")
    cpu_s = sum(row["cpu_s"] for row in rows)
    return (
        f"`python benchmarks/run.py hmtl --protocol {protocol.name}`: {len(rows)} runs, "
        f"{cpu_s:,.0f} CPU s; {'; '.join(facts)}.\n\n"
        f"{protocol.metric} in points, mean +- standard deviation over seeds. Differences are "
        "paired by seed, with the 95 % t interval of their mean. "
        f"Trials: {protocol.tune_steps} steps, seed {protocol.tune_seed}, validation. "
        "Equal compute: equal number of encoder forwards."
    )


def _trials(plan: Plan) -> str:
    lines = ["| arm | trial | validation | chosen |", "|---|---|---|---|"]
    for run in plan.runs(["tune", "semi"]):
        value = plan.results.value(run)
        if run.stage == "tune" and value is not None:
            settings = ", ".join(run.arm.trials[run.trial])
            chosen = "yes" if plan.trial(run.arm) == run.trial else ""
            lines.append(f"| {run.arm.name} | {settings} | {POINTS * value:.2f} | {chosen} |")
    return "\n".join(lines)


def _arms(plan: Plan) -> str:
    rows, metric, baseline = _rows_of(plan, "main"), plan.results.metric, plan.protocol.baseline
    lines = [
        "| arm | seeds | steps | encoder forwards | validation | test, last step "
        f"| test, best on validation | over {baseline}, equal steps "
        f"| over {baseline}, equal compute | seeds by device (CPU s a run) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _arm_names(rows):
        mine = [row for row in rows if row["arm"] == name]
        steps = mine[0]["steps"]
        cells = [name, str(len(mine)), str(steps), f"{_forwards(rows, name):.0f}"]
        for split in ("validation", "test", "test_best"):
            values = list(metric_by_seed(rows, name, split, metric).values())
            cells.append(str(spread(values)) if values else "")

        equal_steps = baseline if steps == round(plan.protocol.steps) else None
        for rival in (equal_steps, equal_compute(plan, rows, name)):
            cells.append(_difference(rows, name, rival, metric))
        lines.append(f"| {' | '.join(cells)} | {_devices(mine)} |")
    return "\n".join(lines)


def _decisive(plan: Plan) -> str:
    """Return the differences that show where a gain comes from.

    Each arm with controls is compared with them. Each leading arm is compared with the rivals.
    """
    rows, metric = _rows_of(plan, "main"), plan.results.metric
    names = _arm_names(rows)
    rivals = [arm.name for arm in plan.of_kind("rival") if arm.name in names]
    pairs: list[tuple[str, str]] = []
    for name in names:
        arm, _, control = name.rpartition("+")
        if control in CONTROLS:
            pairs.append((arm, name))
    pairs += [(leader, rival) for leader in _leaders(plan) for rival in rivals]

    lines: list[str] = []
    for mine, other in pairs:
        my_values = metric_by_seed(rows, mine, "test", metric)
        other_values = metric_by_seed(rows, other, "test", metric)
        found = paired(my_values, other_values)
        if found:
            lines.append(f"| {mine} | {other} | {found.n} | {found.difference} |")
    if not lines:
        return ""
    header = ["| arm | over | pairs | difference on test |", "|---|---|---|---|"]
    return "\n".join([*header, *lines])


def _extras(plan: Plan) -> list[str]:
    """Return the table of each extra that has rows."""
    tables: list[str] = []
    for extra in plan.protocol.extras:
        rows = _rows_of(plan, extra.name)
        if rows:
            tables.append(_extra(plan, extra, rows))
    return tables


def _extra(plan: Plan, extra: Extra, rows: Sequence[Row]) -> str:
    baseline, metric = plan.protocol.baseline, plan.protocol.metric_of(extra.name)
    # An extra has its own scale if its metric is an error, such as degrees.
    note = "" if extra.scale == POINTS else " (lower is better)"
    lines = [
        f"| {extra.name} | seeds | {metric} on test{note} | over {baseline} "
        f"| over {baseline}, equal compute | seeds by device (CPU s a run) |",
        "|---|---|---|---|---|---|",
    ]
    for name in _arm_names(rows):
        values = list(metric_by_seed(rows, name, "test", metric, extra.scale).values())
        cells = [name, str(len(values)), str(spread(values))]
        for rival in (baseline, equal_compute(plan, rows, name)):
            cells.append(_difference(rows, name, rival, metric, extra.scale))
        mine = [row for row in rows if row["arm"] == name]
        lines.append(f"| {' | '.join(cells)} | {_devices(mine)} |")
    return "\n".join(lines)


def _superseded_rows(plan: Plan) -> str:
    metric = plan.results.metric
    cells: list[str] = []
    for row in plan.results.rows:
        if _is_superseded(plan, row) and metric in row["test"]:
            cells.append(f"{name_of(key_of(row))} {POINTS * row['test'][metric]:.2f}")
    if not cells:
        return ""
    return f"Test metrics of trials that were not chosen in the end: {', '.join(cells)}."


def _not_run(plan: Plan) -> str:
    missing = dict.fromkeys(run.name for run in plan.runs() if plan.results.row(run) is None)
    text = f"Not run: {', '.join(missing) or 'nothing'}."
    pending = plan.pending_stages()
    if pending:
        text += f" Stages that depend on results that do not exist yet: {', '.join(pending)}."
    return text


# ----------------------------------------------------------------------------------- rows and cells


def _rows_of(plan: Plan, stage: str) -> list[Row]:
    """Return the rows of a stage, without those of trials that were not chosen in the end."""
    rows = [row for row in plan.results.rows if row["stage"] == stage]
    return [row for row in rows if not _is_superseded(plan, row)]


def _is_superseded(plan: Plan, row: Row) -> bool:
    """Return whether the row's trial was the best one only until a later trial was better.

    Such rows stay out of the tables, so that each seed of an arm has one value.
    """
    if row["stage"] == "tune":
        return False
    chosen = plan.trial(plan.arm(row["arm"]))
    return chosen is not None and chosen != row["trial"]


def _arm_names(rows: Sequence[Row]) -> list[str]:
    """Return each arm once, in the order of the rows."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def _leaders(plan: Plan) -> list[str]:
    """Return the best arm of each role, then the arms close to the best; rivals are left out."""
    leaders = [arm for role in ("@one_view", "@labeled", "@best") for arm in plan.role(role)]
    leaders += plan.close()
    return list(dict.fromkeys(arm.name for arm in leaders if arm.kind != "rival"))


def _forwards(rows: Sequence[Row], arm: str) -> float:
    """Return the mean number of images that a run of the arm encoded; nan without a row."""
    encoded = [row["encoded"] for row in rows if row["arm"] == arm]
    return float(np.mean(encoded)) if encoded else float("nan")


def equal_compute(plan: Plan, rows: Sequence[Row], name: str) -> str | None:
    """Return the arm to compare `name` with at an equal number of encoder forwards.

    It is the baseline, or the best "@equal_compute" arm if `name` encodes more images. It is None
    for the baseline and for the "@equal_compute" arms themselves.
    """
    baseline = plan.protocol.baseline
    if name in (baseline, *plan.protocol.equal_compute):
        return None
    if _forwards(rows, name) >= SAME_COMPUTE * _forwards(rows, baseline):
        return next((arm.name for arm in plan.role("@equal_compute")), None)
    return baseline


def _difference(
    rows: Sequence[Row], name: str, rival: str | None, metric: str, scale: float = POINTS
) -> str:
    """Return the paired difference on test; empty without a rival or without common seeds."""
    if rival is None or rival == name:
        return ""
    mine = metric_by_seed(rows, name, "test", metric, scale)
    other = metric_by_seed(rows, rival, "test", metric, scale)
    found = paired(mine, other)
    return found.difference if found else ""


def _devices(rows: Sequence[Row]) -> str:
    """Return for each device its seeds and the mean CPU seconds of a run.

    Devices differ in rounding, so metrics differ slightly, and in speed.
    """
    by_device: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        device = row["device"].removeprefix("x86_64 ").removeprefix("NVIDIA ")
        by_device.setdefault(device, []).append(row)
    cells: list[str] = []
    for device, found in by_device.items():
        seeds = ", ".join(str(row["seed"]) for row in found)
        cpu_s = np.mean([row["cpu_s"] for row in found])
        cells.append(f"{device}: {seeds} ({cpu_s:.0f})")
    return "; ".join(cells)


# -------------------------------------------------------------------------------------------- plot


def plot(plan: Plan, file: Path) -> None:
    """Plot the test metric of the full-length runs: a point for each seed, a bar for the mean."""
    import matplotlib as mpl

    mpl.use("Agg")  # draws into a file; needs no display
    import matplotlib.pyplot as plt

    rows, metric = _rows_of(plan, "main"), plan.results.metric
    values: dict[str, list[float]] = {}
    for name in _arm_names(rows):
        points = list(metric_by_seed(rows, name, "test", metric).values())
        if points:
            values[name] = points
    names = sorted(values, key=lambda name: float(np.mean(values[name])))

    figure, axes = plt.subplots(figsize=(8, 0.5 + 0.35 * len(names)))
    for y, name in enumerate(names):
        points = values[name]
        mean = float(np.mean(points))
        axes.plot(points, [y] * len(points), "o", color="tab:blue", alpha=0.5)
        axes.plot([mean, mean], [y - 0.3, y + 0.3], color="black")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(f"{metric}, % of the test samples")
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)
