"""The tables of metrics after a run.

Labels and paths are the user's own text. They are shown as `Text`, so that rich does not read their
brackets as markup.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from ..callbacks.bars import Bars
from ..contracts import CallbackContext
from ..evaluation.groups import without_groups
from ..files import in_shell
from ..run import Run
from ._shared import print_line


class StudyBars(Bars):
    """Bars of the runs of a study. Their validation metrics are in its tables."""

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        if "lr" in row:
            super().on_log(run, row)


def metrics_table(title: str, metrics: Mapping[str, float]) -> Table:
    """One row per metric."""
    table = Table("metric", "value", title=Text(title), title_justify="left")
    for name, value in metrics.items():
        table.add_row(Text(name), f"{value:.4f}")
    return table


def headline(metrics: Mapping[str, float]) -> str:
    """The first metric of each task, in one line: what a reader looks for at the end."""
    first: dict[str, str] = {}
    for name, value in without_groups(metrics).items():
        first.setdefault(name.partition("/")[0], f"{name} {value:.4f}")
    return "  ".join(first.values())


def print_result(run: Run) -> None:
    """Print the steps, the compute, the run folder, and the next command."""
    summary = run.summary
    if "steps" not in summary:
        return  # this process is not the main one, and the folder is on another machine
    skipped = f" ({summary['skipped']} skipped)" if summary["skipped"] else ""
    print_line(f"{summary['steps']} steps{skipped}, compute {summary['cpu_s']:.0f} CPU s")
    print_line(f"run folder: {run.path}")
    print_line(f"evaluate it: mtl eval {in_shell(run.path)}")
