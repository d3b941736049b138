"""The tables of a study: where its runs were made, its trials, arms, verdicts and extras.

Metrics are means over seeds with their standard deviation. Differences are paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path

from attrs import frozen

from ..errors import MtlError, nearest
from .cells import (
    POINTS,
    Scale,
    arm_names,
    equal_compute,
    mean_forwards,
    metric_by_seed,
    reasons,
    seeds_by_device,
    shown_difference,
    shown_number,
    verdict_cells,
)
from .definition import CONTROLS, Extra
from .mixed_data import mixed_data
from .plan import Plan
from .plots import plot_comparison
from .results import HALF_DECIMAL, Row, key_of, metric_in, name_of
from .statistics import Comparison, Pair, compare_pairs, paired, spread
from .tables import Table

Format = str
"""Of a report: "markdown", "csv" or "latex"."""
FORMATS = ("markdown", "csv", "latex")


@frozen
class Report:
    """Paragraphs and tables of a study.

    arms: the table with one row for each arm, and what its differences decide.
    errors: name of a run -> why it failed. A run that diverged has no error.
    """

    parts: tuple[str | Table, ...]
    arms: Table
    errors: Mapping[str, str]

    def as_format(self, name: str) -> str:
        """Return the report as "markdown" or "latex", or the table of the arms as "csv"."""
        if name not in FORMATS:
            raise MtlError(f"format = {name!r}: unknown; {nearest(name, FORMATS)}")
        if name == "csv":
            return self.arms.csv()
        tables = [part for part in self.parts if isinstance(part, Table)]
        if name == "latex":
            return "\n\n".join(table.latex() for table in tables)
        return str(self)

    def __str__(self) -> str:
        parts = [part.markdown() if isinstance(part, Table) else part for part in self.parts]
        return "\n\n".join(parts)


def report(plan: Plan, command: str, errors: Mapping[str, str] | None = None) -> Report:
    """Return the report of the finished rows.

    command: what makes the runs. errors: name -> why a run failed.
    """
    tables = Tables(plan)
    diverged = {name_of(key_of(row)): row["failed"] for row in plan.results.rows if "failed" in row}
    without = {**diverged, **(errors or {})}
    arms = tables.arms()
    parts: list[str | Table] = [
        tables.provenance(command),
        tables.trials(),
        arms,
        tables.verdicts(),
        tables.decisive(),
        *tables.extras(),
        tables.superseded(),
        mixed_data(plan),
        tables.not_run(without),
    ]
    shown = [part for part in parts if part and (isinstance(part, str) or part.rows)]
    return Report(tuple(shown), _joined(arms, tables.verdicts()), errors or {})


def _joined(arms: Table, verdicts: Table) -> Table:
    """Return the arms with their verdicts in one table, for programs."""
    at_equal_steps = {row[0]: row[3:] for row in reversed(verdicts.rows)}
    columns = (*arms.columns, *verdicts.columns[3:])
    empty = ("",) * len(verdicts.columns[3:])
    rows = [(*row, *at_equal_steps.get(row[0], empty)) for row in arms.rows]
    return Table(arms.title, columns, tuple(rows))


@frozen(eq=False)
class Tables:
    """The parts of the report of one plan."""

    plan: Plan

    @property
    def split(self) -> str:
        """The split that arms are compared on: "test" where it was read, else "validation"."""
        has_test = any(row.get("test") for row in self.plan.results.rows)
        return "test" if has_test else "validation"

    @property
    def scale(self) -> Scale:
        """The scale of the main metric: points for a share where higher is better."""
        results = self.plan.results
        return scale_of(results.rows, results.metric, results.higher_is_better())

    def scale_of_extra(self, extra: Extra) -> Scale:
        """The scale of the metric of an extra: its own, or as that of the main metric."""
        if extra.scale is not None:
            return Scale(extra.scale)
        results, rows = self.plan.results, self.rows_of(extra.name)
        metric = self._metric_of(extra, rows)
        return scale_of(rows, metric, results.higher_is_better(extra.name))

    # ------------------------------------------------------------------------------------- parts

    def provenance(self, command: str) -> str:
        """Return where the runs were made, and how to read the numbers."""
        study, rows = self.plan.definition, self.plan.results.rows
        facts: list[str] = []
        for key in ("date", "device", "torch", "threads", "commit", "mtlcore"):
            values = sorted({str(row[key]) for row in rows if key in row})
            if values:
                facts.append(f"{key} {', '.join(values)}")
        cpu_s = sum(row["cpu_s"] for row in rows)
        trials = ""
        if any(row["stage"] == "tune" for row in rows):
            trials = f"Trials: {study.trial_steps} steps, seed {study.tune_seed}, validation. "
        unit = " in points" if self.scale.factor == POINTS else self._direction()
        return (
            f"`{command}`: {len(rows)} runs, {cpu_s:,.0f} CPU s; {'; '.join(facts)}.\n\n"
            f"{self.plan.results.metric}{unit}, mean +- standard deviation over seeds. Differences "
            f"are paired by seed, with the 95 % t interval of their mean. {trials}"
            "Equal compute: equal number of encoder forwards."
        )

    def _direction(self) -> str:
        return "" if self.plan.results.higher_is_better() else " (lower is better)"

    def trials(self) -> Table:
        """Return the validation metric of each trial, and which one is used."""
        rows: list[tuple[str, ...]] = []
        for run in self.plan.runs(["tune", "semi"]):
            value = self.plan.results.value(run)
            if run.stage == "tune" and value is not None:
                settings = ", ".join(run.arm.trials[run.trial])
                chosen = "yes" if self.plan.trial(run.arm) == run.trial else ""
                number = shown_number(value, self.scale)
                rows.append((run.arm.name, settings, number, chosen))
        return Table("", ("arm", "trial", "validation", "chosen"), tuple(rows))

    def arms(self) -> Table:
        """Return one row for each arm that has full-length runs."""
        plan, baseline = self.plan, self.plan.definition.baseline
        rows, metric = self.rows_of("main"), plan.results.metric
        splits = {"validation": "validation", "test": "test, last step"}
        splits["test_best"] = "test, best on validation"
        if self.split == "validation":
            splits = {"validation": "validation, last step"}
            if any("validation_best" in row for row in rows):
                splits["validation_best"] = "validation, best step"
        columns = ["arm", "seeds", "steps", "encoder forwards", *splits.values()]
        columns += [f"over {baseline}, equal steps", f"over {baseline}, equal compute"]
        lines: list[tuple[str, ...]] = []
        for name in arm_names(rows):
            mine = [row for row in rows if row["arm"] == name]
            done = [row for row in mine if "failed" not in row]
            steps = mine[0]["steps"]
            seeds = str(len(done)) if done == mine else f"{len(done)} of {len(mine)}"
            cells = [name, seeds, str(steps), f"{mean_forwards(rows, name):.0f}"]
            for split in splits:
                values = list(metric_by_seed(rows, name, split, metric, self.scale).values())
                cells.append(spread(values).shown(self.scale.digits) if values else "")
            for rival in self._rivals(rows, name):
                cells.append(shown_difference(rows, name, rival, self.split, metric, self.scale))
            lines.append((*cells, seeds_by_device(mine)))
        columns.append("seeds by device (CPU s a run)")
        return Table("", tuple(columns), tuple(lines))

    def _rivals(self, rows: Sequence[Row], name: str) -> tuple[str | None, str | None]:
        """Return what an arm is compared with: at equal steps, and at equal compute."""
        plan = self.plan
        mine = next(row for row in rows if row["arm"] == name)
        same_steps = mine["steps"] == round(plan.definition.full_steps)
        baseline = plan.definition.baseline if same_steps else None
        return baseline, equal_compute(plan, rows, name)

    def verdicts(self) -> Table:
        """Return what the differences decide, corrected by Holm for all of them.

        Each arm is compared with the baseline, at equal steps and at equal compute, and with its
        controls. A diverged seed counts. An arm that was only screened, with one seed, is left out.
        """
        columns = ("arm", "over", "pairs", f"difference on {self.split}, corrected")
        lines = [verdict_cells(comparison, self.scale.digits) for comparison in self.comparisons()]
        return Table("", (*columns, "p (Holm)", "verdict"), tuple(lines))

    def plot(self, file: Path) -> None:
        """Write a plot of the arms, and of their differences from the baseline."""
        values, compared, label = self.compared()
        plot_comparison(file, values, compared, label)

    def compared(self) -> tuple[dict[str, dict[int, float]], list[Comparison], str]:
        """Return what plots show: arm -> seed -> metric, the baseline first; its differences from
        the baseline; the name of the metric.
        """
        plan, rows = self.plan, self.rows_of("main")
        baseline = plan.definition.baseline
        names = [baseline, *(name for name in arm_names(rows) if name != baseline)]
        values = {name: dict(self._pair(rows, name, name).mine) for name in names}
        compared = [x for x in self.comparisons() if x.baseline == baseline]
        return values, compared, f"{plan.results.metric} on {self.split}"

    def claims(self) -> list[tuple[str, str]]:
        """Return each arm with what it is compared with, each pair once."""
        rows = self.rows_of("main")
        found: dict[tuple[str, str], None] = {}
        for name in arm_names(rows):
            arm, _, control = name.rpartition("+")
            if control in CONTROLS:
                found[arm, name] = None
                continue
            for rival in self._rivals(rows, name):
                if rival is not None and rival != name:
                    found[name, rival] = None
        return list(found)

    def comparisons(self) -> list[Comparison]:
        """Return the claims that have two seeds or more, corrected by Holm for all of them.

        Claims of arms that have one seed so far count, too: else verdicts would change with each
        arm that gets its second seed. A screening makes no claim.
        """
        rows = self.rows_of("main")
        pairs = [self._pair(rows, mine, other) for mine, other in self.claims()]
        tested = [len(pair.mine.keys() & pair.other.keys()) > 1 for pair in pairs]
        if not self.plan.definition.seeds:  # with stages: the others were only screened
            return compare_pairs(list(compress(pairs, tested)))
        return list(compress(compare_pairs(pairs), tested))

    def _pair(self, rows: Sequence[Row], mine: str, other: str) -> Pair:
        values = []
        for name in (mine, other):
            found = {row["seed"]: row for row in rows if row["arm"] == name}
            # An arm that was not read on test has no value there. A seed that diverged has nan.
            known = {
                seed: row for seed, row in found.items() if "failed" in row or row.get(self.split)
            }
            values.append({seed: self._value(row) for seed, row in known.items()})
        higher = self.plan.results.higher_is_better()
        rounding = abs(self.scale.factor) * HALF_DECIMAL
        return Pair(mine, other, values[0], values[1], higher, rounding)

    def _value(self, row: Row) -> float:
        return self.scale.factor * metric_in(row, self.split, self.plan.results.metric)

    def decisive(self) -> Table:
        """Return the differences that show where a gain comes from.

        Each arm with controls is compared with them. Each leading arm is compared with the rivals.
        """
        plan = self.plan
        rows, metric = self.rows_of("main"), plan.results.metric
        names = arm_names(rows)
        rivals = [arm.name for arm in plan.of_kind("rival") if arm.name in names]
        pairs: list[tuple[str, str]] = []
        for name in names:
            arm, _, control = name.rpartition("+")
            if control in CONTROLS:
                pairs.append((arm, name))
        pairs += [(leader, rival) for leader in self._leaders() for rival in rivals]

        lines: list[tuple[str, ...]] = []
        for mine, other in pairs:
            my_values = metric_by_seed(rows, mine, self.split, metric, self.scale)
            other_values = metric_by_seed(rows, other, self.split, metric, self.scale)
            found = paired(my_values, other_values)
            if found:
                lines.append((mine, other, str(found.n), found.signed(self.scale.digits)))
        columns = ("arm", "over", "pairs", f"difference on {self.split}")
        return Table("", columns, tuple(lines))

    def _leaders(self) -> list[str]:
        """Return the best arm of each role, then the arms close to the best, without rivals."""
        plan = self.plan
        leaders = [arm for role in ("@one_view", "@labeled", "@best") for arm in plan.role(role)]
        leaders += plan.close()
        return list(dict.fromkeys(arm.name for arm in leaders if arm.kind != "rival"))

    def extras(self) -> list[Table]:
        """Return the table of each extra that has rows."""
        tables: list[Table] = []
        for extra in self.plan.definition.extras:
            rows = self.rows_of(extra.name)
            if rows:
                tables.append(self._extra(extra, rows))
        return tables

    def _metric_of(self, extra: Extra, rows: Sequence[Row]) -> str:
        """Return the metric of an extra. A run that diverged in its pre-training names none."""
        named = (str(row["metric"]) for row in rows if "metric" in row)
        return self.plan.definition.metric_of(extra.name) or next(named, self.plan.results.metric)

    def _extra(self, extra: Extra, rows: Sequence[Row]) -> Table:
        plan, baseline = self.plan, self.plan.definition.baseline
        metric = self._metric_of(extra, rows)
        note = "" if plan.results.higher_is_better(extra.name) else " (lower is better)"
        scale = self.scale_of_extra(extra)
        split = "test" if any(row.get("test") for row in rows) else "validation"
        columns = (
            extra.name,
            "seeds",
            f"{metric} on {split}{note}",
            f"over {baseline}",
            f"over {baseline}, equal compute",
            "seeds by device (CPU s a run)",
        )
        lines: list[tuple[str, ...]] = []
        for name in arm_names(rows):
            values = list(metric_by_seed(rows, name, split, metric, scale).values())
            cells = [name, str(len(values)), spread(values).shown(scale.digits)]
            for rival in (baseline, equal_compute(plan, rows, name)):
                cells.append(shown_difference(rows, name, rival, split, metric, scale))
            mine = [row for row in rows if row["arm"] == name]
            lines.append((*cells, seeds_by_device(mine)))
        return Table("", columns, tuple(lines))

    def superseded(self) -> str:
        """Return the test metrics of trials that were not chosen in the end."""
        metric = self.plan.results.metric
        cells: list[str] = []
        chosen = self._chosen_trials(self.plan.results.rows)
        for row in self.plan.results.rows:
            if _is_superseded(row, chosen) and metric in row.get("test", {}):
                value = shown_number(row["test"][metric], self.scale)
                cells.append(f"{name_of(key_of(row))} {value}")
        if not cells:
            return ""
        return f"Test metrics of trials that were not chosen in the end: {', '.join(cells)}."

    def not_run(self, failed: Mapping[str, str]) -> str:
        """Return which runs are missing, and why."""
        missing = [run.name for run in self.plan.left() if run.name not in failed]
        text = f"Not run: {', '.join(missing) or 'nothing'}."
        pending = self.plan.pending_stages()
        if pending:
            text += f" Stages that depend on results that do not exist yet: {', '.join(pending)}."
        if failed:
            text += f"\n\nWithout a result: {reasons(failed)}"
        return text

    # -------------------------------------------------------------------------------------- rows

    def rows_of(self, stage: str) -> list[Row]:
        """Return the rows of a stage, without those of trials that were not chosen in the end."""
        rows = [row for row in self.plan.results.rows if row["stage"] == stage]
        # A control that its pretext can't have is named below the tables.
        rows = [row for row in rows if row.get("diverged", True)]
        chosen = self._chosen_trials(rows)
        return [row for row in rows if not _is_superseded(row, chosen)]

    def _chosen_trials(self, rows: Sequence[Row]) -> dict[str, int | None]:
        """Return arm -> its trial that is used, of the arms of rows that are no trials."""
        names = dict.fromkeys(row["arm"] for row in rows if row["stage"] != "tune")
        return {name: self.plan.trial(self.plan.arm(name)) for name in names}


def scale_of(rows: Sequence[Row], metric: str, higher_is_better: bool) -> Scale:
    """Return how a metric of rows is shown: in points if it is a share where higher is better."""
    values = [metric_in(row, "validation", metric) for row in rows]
    shares = all(0 <= value <= 1 for value in values if math.isfinite(value))
    return Scale(POINTS) if shares and higher_is_better else Scale(1.0, 4)


def _is_superseded(row: Row, chosen: Mapping[str, int | None]) -> bool:
    """Return whether the row's trial was the best one only until a later trial was better.

    Such rows stay out of the tables, so that each seed of an arm has one value.
    """
    if row["stage"] == "tune":
        return False
    trial = chosen[row["arm"]]
    return trial is not None and trial != row["trial"]
