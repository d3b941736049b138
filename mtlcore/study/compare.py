"""Compare runs that exist: arms, paired differences, and what they decide.

Runs that differ only by seed form an arm. Arms are paired by seed. Metrics are those on the
validation split at the last step. The test split is read only when asked. Then the metrics are
recorded in run.json, with the dates of each reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from attrs import asdict, frozen

from ..errors import MtlError, nearest
from ..evaluation.evaluate import Progress
from ..files import finite
from .arms_of_runs import Arm, arm_named, arms_of, baseline_of_study
from .compare_notes import notes_on
from .plots import plot_comparison
from .run_metrics import metric_directions, metrics_of_runs, values_of
from .run_settings import RunRecord, differences, run_folders
from .statistics import Comparison, Pair, compare_pairs, spread
from .tables import Table

Split = Literal["validation", "test"]
DIGITS = 4
LONG_COLUMNS = (
    *("metric", "arm", "n", "mean", "sd", "baseline", "pairs", "difference", "low", "high"),
    *("p", "p_holm", "verdict", "more_seeds"),
)
Where = str | Path


@frozen
class RunComparison:
    """Arms of runs that exist, compared with a baseline.

    values: metric -> arm -> seed -> value; nan for a run without a result.
    comparisons: metric -> one comparison for each other arm. Holm's correction counts all of them.
    different: arm -> dotted key -> the values that differ from the baseline.
    notes: what limits the comparison, one line each.
    """

    split: Split
    baseline: str
    arms: tuple[Arm, ...]
    values: dict[str, dict[str, dict[int, float]]]
    higher_is_better: dict[str, bool]
    comparisons: dict[str, tuple[Comparison, ...]]
    different: dict[str, dict[str, str]]
    notes: tuple[str, ...]

    def arms_table(self) -> Table:
        """One row for each arm: its seeds, its compute, the mean and sd of each metric."""
        rows: list[tuple[str, ...]] = []
        for arm in self.arms:
            cells = [arm.name, ", ".join(map(str, arm.runs))]
            for by_arm in self.values.values():
                known = list(by_arm[arm.name].values())
                cells.append(spread(known).shown(DIGITS) if known else "")
            cells += [_number(arm.mean(entry)) for entry in ("steps", "encoded", "cpu_s")]
            rows.append(tuple(cells))
        metrics = [f"{name} ({_direction(up)})" for name, up in self.higher_is_better.items()]
        columns = ("arm", "seeds", *metrics, "steps", "images encoded", "CPU s")
        return Table(
            f"Mean and standard deviation on {self.split}, last step", columns, tuple(rows)
        )

    def differences_table(self) -> Table:
        """One row for each comparison: paired difference, corrected interval, p, verdict."""
        rows: list[tuple[str, ...]] = []
        for metric, compared in self.comparisons.items():
            for found in compared:
                p = "" if found.p_holm is None else f"{found.p_holm:.3g}"
                pairs = str(found.difference.n)
                difference = found.signed(DIGITS) if found.difference.n else ""
                rows.append((found.arm, metric, pairs, difference, p, found.text))
        columns = ("arm", "metric", "pairs", "difference [interval]", "p", "verdict")
        title = (
            f"Difference from {self.baseline} on {self.split}, paired by seed; intervals of "
            "95 % and p corrected by Holm"
        )
        return Table(title, columns, tuple(rows))

    def settings_table(self) -> Table:
        """One row for each setting in which an arm differs from the baseline."""
        rows = [
            (arm, key, values)
            for arm, changed in self.different.items()
            for key, values in changed.items()
        ]
        return Table(
            f"Settings that differ from {self.baseline}", ("arm", "key", "values"), tuple(rows)
        )

    def long_table(self) -> Table:
        """All numbers, not rounded: one row for each metric and arm, for other programs."""
        rows: list[tuple[str, ...]] = []
        for metric, by_arm in self.values.items():
            compared = {found.arm: found for found in self.comparisons[metric]}
            for arm, by_seed in by_arm.items():
                of_arm = spread(list(by_seed.values()))
                cells = [metric, arm, *map(_plain, (of_arm.n, of_arm.mean, of_arm.sd))]
                rows.append((*cells, *_comparison_cells(compared.get(arm))))
        return Table("", LONG_COLUMNS, tuple(rows))

    def plot(self, file: Where, metric: str | None = None) -> None:
        """Plot a metric (default: the first): means, and differences with their intervals."""
        name = metric or next(iter(self.values))
        if name not in self.values:
            raise MtlError(f"metric = {name!r}: not compared; {nearest(name, self.values)}")
        plot_comparison(Path(file), self.values[name], self.comparisons[name], name)

    def as_json(self) -> dict[str, Any]:
        """What `mtl compare --json` prints."""
        arms = {arm.name: {s: str(run.path) for s, run in arm.runs.items()} for arm in self.arms}
        comparisons = {
            metric: [asdict(found) | {"text": found.text} for found in compared]
            for metric, compared in self.comparisons.items()
        }
        result: dict[str, Any] = finite(
            {
                "split": self.split,
                "baseline": self.baseline,
                "arms": arms,
                "higher_is_better": self.higher_is_better,
                "values": self.values,
                "comparisons": comparisons,
                "different": self.different,
                "notes": list(self.notes),
            }
        )
        return result


def compare_runs(
    runs: Sequence[Where],
    *,
    baseline: Where | None = None,
    metrics: Sequence[str] = (),
    split: Split = "validation",
    vary: Sequence[str] = (),
    progress: Progress | None = None,
) -> RunComparison:
    """Group runs into arms, and compare each arm with the baseline, paired by seed.

    runs: run folders, or folders of runs.
    baseline: the name of an arm, or one of its runs (default: that of the study whose folder is
        given, else the arm of the first run).
    metrics: such as "fer/accuracy" (default: the first metric of each task).
    split: "validation" (at the last step), or "test", which evaluates each run once.
    vary: tables or keys that are compared on purpose, such as "encoder": no note if they differ.

    Raises MtlError if there are fewer than two arms, if two runs have the same settings and seed,
    or if no run has the metric.
    """
    if split not in get_args(Split):
        raise MtlError(f"split = {split!r}: unknown; {nearest(split, get_args(Split))}")
    records = [RunRecord.read(path) for path in run_folders([Path(run) for run in runs])]
    arms = _at_least_two(arms_of(records))
    base = arm_named(arms, baseline or baseline_of_study(runs, arms))
    others = [arm for arm in arms if arm is not base]
    different = {arm.name: _different(arm, base) for arm in others}

    measured = metrics_of_runs(arms, split, progress)
    upward = metric_directions(metrics, base, measured.by_run, split)
    values = {name: values_of(name, arms, measured.by_run) for name in upward}
    return RunComparison(
        split=split,
        baseline=base.name,
        arms=tuple(arms),
        values=values,
        higher_is_better=upward,
        comparisons=_compare(values, base.name, upward),
        different=different,
        notes=(*measured.notes, *notes_on(arms, base, different, vary)),
    )


def _at_least_two(arms: list[Arm]) -> list[Arm]:
    if not arms:
        raise MtlError("no run given: expected the folders of at least two runs")
    if len(arms) == 1:
        raise MtlError(
            f"these runs differ only by seed, so they are one arm ({arms[0].name}): "
            "expected runs of at least two configurations"
        )
    return arms


def _compare(
    values: Mapping[str, Mapping[str, Mapping[int, float]]],
    baseline: str,
    upward: Mapping[str, bool],
) -> dict[str, tuple[Comparison, ...]]:
    """Compare all arms by all metrics, with one correction for all of them."""
    pairs: list[Pair] = []
    owners: list[str] = []
    for metric, by_arm in values.items():
        for arm, mine in by_arm.items():
            if arm != baseline:
                pairs.append(Pair(arm, baseline, mine, by_arm[baseline], upward[metric]))
                owners.append(metric)
    found: dict[str, list[Comparison]] = {metric: [] for metric in values}
    for metric, compared in zip(owners, compare_pairs(pairs)):
        found[metric].append(compared)
    return {metric: tuple(compared) for metric, compared in found.items()}


def _different(arm: Arm, baseline: Arm) -> dict[str, str]:
    """Return the settings that differ, between runs of one seed if there are such runs."""
    common = sorted(arm.runs.keys() & baseline.runs.keys())
    mine = arm.runs[common[0]] if common else arm.first
    other = baseline.runs[common[0]] if common else baseline.first
    return differences(mine, other, arm.name, baseline.name)


def _comparison_cells(found: Comparison | None) -> tuple[str, ...]:
    if found is None:  # the baseline
        return ("",) * 9
    numbers = (found.difference.n, found.difference.mean, found.low, found.high)
    tests = (found.p, found.p_holm)
    shown = [*map(_plain, numbers), *map(_plain, tests)]
    return (found.baseline, *shown, found.verdict, _plain(found.more_seeds))


def _plain(value: float | None) -> str:
    return "" if value is None else repr(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _direction(higher_is_better: bool) -> str:
    return "higher is better" if higher_is_better else "lower is better"
