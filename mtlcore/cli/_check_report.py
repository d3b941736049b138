"""How `mtl plugins check` runs the checks and prints their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

    from ..testing import Conformance, Outcome, Report

STYLES = {
    "passed": "green",
    "failed": "red",
    "skipped": "yellow",
    "blocked": "magenta",
    "xfailed": "cyan",
}
STRIDE = 10  # checks between two lines of progress where stdout is not a terminal


def run_checks(suite: Conformance, quiet: bool) -> Report:
    """Run all checks of a suite.

    A terminal shows one live line, which disappears at the end. Elsewhere, such as in a CI log,
    every tenth check prints a line.
    """
    from rich.progress import MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    from ._shared import console, print_line

    name = f"{suite.checks.kind} {suite.plugin}"
    total = len(suite.checks.checks)
    done = 0
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TextColumn(
            "{task.fields[check]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis"),
        ),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bars:
        task = bars.add_task(name, total=total, check="")

        def finished(outcome: Outcome) -> None:
            nonlocal done
            done += 1
            bars.update(task, advance=1, check=outcome.name)
            if not (quiet or console.is_terminal) and done % STRIDE == 0:
                print_line(f"{name}: {done} of {total} checks")

        return suite.report(finished)


def print_report(report: Report, sheet: Path | None) -> None:
    """Print one row per check, then each failure in full, then the counts."""
    from rich.table import Column, Table
    from rich.text import Text

    from ._shared import console, print_line

    table = Table(Column("check", no_wrap=True), "status", "seconds", "reason")
    table.title = Text(f"{report.kind} {report.plugin}")
    table.title_justify = "left"
    for each in report.checks:
        # The reason of a failure has several lines, which would not fit into the table.
        reason = "see below" if each.status == "failed" else " ".join(each.reason.split())
        status = Text(each.status, STYLES[each.status])
        table.add_row(Text(each.name), status, f"{each.seconds:.2f}", Text(reason))
    console.print(table)
    _print_failures([report])
    print_line(_counted(report.counts))
    if sheet is not None:
        print_line(f"look at it: {sheet}")


def print_all(reports: Sequence[Report], unchecked: Sequence[Mapping[str, object]]) -> None:
    """Print one row per component, then each failure in full, then the counts of all checks.

    unchecked: rows of components that need values, and of plugins that failed to load.
    """
    from rich.table import Column, Table

    from ._shared import console, print_line

    statuses = ("ran", "failed", "skipped", "blocked", "xfailed")
    table = Table(Column("kind", no_wrap=True), Column("name", no_wrap=True), *statuses)
    for report in reports:
        numbers = [_number(status, report.counts[status]) for status in statuses]
        table.add_row(report.kind, report.plugin, *numbers)
    console.print(table)
    _print_failures(reports)

    needy = []
    for row in unchecked:
        if row["status"] == "failed":
            print_line(f"{row['plugin']}: its plugin failed: {row['reason']}")
        else:
            needy.append(f"{row['kind']} {row['plugin']} ({row['reason']})")
    total = {s: sum(report.counts[s] for report in reports) for s in (*statuses, "passed")}
    print_line(f"{len(reports)} components: {_counted(total)}")
    if needy:
        print_line(f"not checked: {', '.join(needy)}")
        print_line("set their values with --config FILE, or check one by NAME with --set KEY=VALUE")


def _print_failures(reports: Sequence[Report]) -> None:
    from ._shared import print_line

    for report in reports:
        for each in report.checks:
            if each.status == "failed":
                print_line(f"\n{each.reason}")
    if any(report.failed for report in reports):
        print_line("")


def _number(status: str, number: int) -> Text:
    """A number in the color of its status; zero has no color."""
    from rich.text import Text

    return Text(str(number), STYLES.get(status, "") if number else "")


def _counted(counts: Mapping[str, int]) -> str:
    """ "12 checks, 10 ran: 9 passed, 1 failed, 2 skipped, 0 blocked, 0 xfailed"."""
    checks = counts["ran"] + counts["skipped"] + counts["blocked"]
    statuses = ("passed", "failed", "skipped", "blocked", "xfailed")
    by_status = ", ".join(f"{counts[status]} {status}" for status in statuses)
    return f"{checks} checks, {counts['ran']} ran: {by_status}"
