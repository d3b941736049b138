"""The report of a study as a page: arms with intervals, verdicts, what is left, and its settings.

It reads the rows of the runs that have ended, as `mtl study table` does. No data and no run folder
is opened, so a study that is half done, or whose data is gone, has a report, too.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import __version__
from ..report.blocks import (
    Block,
    Charts,
    Code,
    Facts,
    Missing,
    Page,
    Section,
    Text,
)
from ..report.blocks import Table as TableBlock
from ..report.charts import BAD, GOOD, TEXT, Interval, interval_chart
from ..report.numbers import seconds
from .plan import Plan
from .remaining import Remaining
from .report import Tables
from .statistics import Comparison, spread
from .tables import Table

COLOR_OF_VERDICT = {"better": GOOD, "worse": BAD, "not decided": TEXT}


def study_page(
    plan: Plan, remaining: Remaining, command: str, folder: Path, text: str | None
) -> Page:
    """Return the page of a study.

    remaining: what is left of it. command: what makes its runs. folder: of its runs. text: of its
    file; None if it was made in Python.
    """
    tables = Tables(plan)
    results = plan.results
    total = remaining.ended + len(remaining.left) + remaining.others
    state = "It is complete." if remaining.done else f"{remaining.ended} of {total} runs are done."
    sections = [
        Section("arms", "Arms", _arms(tables)),
        Section("verdicts", "Verdicts", _verdicts(tables)),
        Section("more", "Where gains come from", _more(tables)),
        Section("left", "What is left", _left(tables, remaining)),
        Section("settings", "Settings", _settings(plan, text)),
    ]
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = [
        ("arms", str(len(plan.definition.arms))),
        ("seeds", str(len(plan.definition.seeds))),
        ("runs done", f"{remaining.ended} of {total}"),
        ("baseline", plan.definition.baseline),
        ("compute so far", f"{seconds(sum(row['cpu_s'] for row in results.rows))} of CPU"),
    ]
    if results.rows:
        facts.insert(2, ("metric", f"{results.metric} on {tables.split}"))
    return Page(
        title=f"Study {plan.definition.name}",
        summary=f"{len(plan.definition.arms)} ways to train, compared over seeds. {state}",
        facts=Facts(facts),
        sections=[section for section in sections if section.blocks],
        made=f"Made by mtlcore {__version__} on {made} from {folder} ({command}).",
    )


def _arms(tables: Tables) -> Sequence[Block]:
    arms = tables.arms()
    if not arms.rows:
        why = "No full-length run has ended yet. `mtl study run` trains what is left."
        return [Missing("the table of the arms", why)]
    values, compared, label = tables.compared()
    charts = [
        interval_chart(
            "Mean over seeds, 95 % interval",
            [_mean(name, by_seed, tables.scale.digits) for name, by_seed in values.items()],
            label,
        )
    ]
    baseline = tables.plan.definition.baseline
    if compared:
        differences = [_difference(found) for found in compared]
        title = f"Difference from {baseline}, corrected interval"
        charts.append(interval_chart(title, differences, label, zero=True))
    how = "".join(tables.provenance("").partition("\n\n")[2:])
    return [Charts(charts), _block(arms, "Arms"), Text(how, quiet=True)]


def _mean(name: str, by_seed: Mapping[int, float], digits: int) -> Interval:
    found = spread([value for value in by_seed.values() if math.isfinite(value)])
    low = math.nan if found.low is None else found.low
    high = math.nan if found.high is None else found.high
    return Interval(f"{name} (n = {found.n})", _rounded(found.mean, digits), low, high)


def _rounded(value: float, digits: int) -> float:
    return round(value, digits + 2) if math.isfinite(value) else value


def _difference(found: Comparison) -> Interval:
    low = math.nan if found.low is None else found.low
    high = math.nan if found.high is None else found.high
    color = COLOR_OF_VERDICT[found.verdict]
    return Interval(f"{found.arm}: {found.verdict}", found.difference.mean, low, high, color)


def _verdicts(tables: Tables) -> Sequence[Block]:
    found = tables.verdicts()
    if not found.rows:
        return [Missing("verdicts", "No pair of arms has two seeds in common yet.")]
    note = (
        "Differences are paired by seed. Intervals and p are corrected by Holm for all "
        "comparisons of this table. An interval that holds 0 decides nothing."
    )
    return [_block(found, "What the differences decide"), Text(note, quiet=True)]


def _more(tables: Tables) -> Sequence[Block]:
    blocks: list[Block] = []
    named = [("Arms over their controls and rivals", tables.decisive())]
    named += [("Trials", tables.trials()), *((t.columns[0], t) for t in tables.extras())]
    for title, table in named:
        if table.rows:
            blocks.append(_block(table, title))
    superseded = tables.superseded()
    return [*blocks, Text(superseded, quiet=True)] if superseded else blocks


def _left(tables: Tables, remaining: Remaining) -> Sequence[Block]:
    diverged = [row for row in tables.plan.results.rows if "failed" in row]
    blocks: list[Block] = [Text(line) for line in remaining.lines()]
    for row in diverged:
        blocks.append(Text(f"{row['arm']}, seed {row['seed']}: {row['failed']}"))
    return blocks


def _settings(plan: Plan, text: str | None) -> Sequence[Block]:
    study = plan.definition
    rows = [(name, ", ".join(arm.set) or "nothing") for name, arm in study.arms.items()]
    blocks: list[Block] = [
        TableBlock("What each arm sets", ("arm", "settings"), rows, numbers=False)
    ]
    if text is not None:
        blocks.append(Code("The study", text))
    config = Path(study.config)
    try:
        blocks.append(Code(f"The base configuration, {config.name}", config.read_text("utf-8")))
    except (OSError, ValueError) as error:
        blocks.append(Missing("the base configuration", f"{config} can't be read: {error}"))
    rest = {"; ".join(facts) for facts in [_made_with(plan)] if facts}
    return [*blocks, *(Text(line, quiet=True) for line in rest)]


def _made_with(plan: Plan) -> list[str]:
    """Where the runs were made: one fact for each key of their rows."""
    facts = []
    for key in ("date", "device", "torch", "threads", "commit", "mtlcore"):
        values = sorted({str(row[key]) for row in plan.results.rows if key in row})
        if values:
            facts.append(f"{key} {', '.join(values)}")
    return facts


def _block(table: Table, title: str) -> TableBlock:
    return TableBlock(table.title or title, table.columns, table.rows, numbers=False)
