"""What the terminal shows of a run, and the tables of metrics after it.

Labels and paths are the user's own text. They are shown as `Text`, so that rich does not read their
brackets as markup.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..callbacks.progress import ProgressReporter
from ..contracts import CallbackContext
from ..demo import Arm
from ..evaluation.measure import Measured
from ..training.result import Result
from ._shared import console, print_line


class Bars(ProgressReporter):
    """Progress bars in the terminal: of the preparation, and of the training.

    quiet: show nothing, for commands that print JSON to the same terminal.
    title: the name of the bar of training steps.
    """

    def __init__(self, quiet: bool = False, title: str = "training") -> None:
        self.title = title
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            console=console,
            disable=quiet,
        )
        self.tasks: dict[str, TaskID] = {}
        self.logged_at = (0, time.perf_counter())  # step and time of the last logged step

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        self._update(what, done, total, "")

    def note(self, text: str) -> None:
        if not self.bars.disable:
            self.bars.console.print(Text(text))

    def on_train_start(self, run: CallbackContext) -> None:
        self.logged_at = run.step, time.perf_counter()

    def on_log(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        if "lr" in row:
            self._show_losses(run, row)
        else:
            self._show_metrics(row)

    def _show_losses(self, run: CallbackContext, row: Mapping[str, Any]) -> None:
        step, now = row["step"], time.perf_counter()
        step_before, time_before = self.logged_at
        self.logged_at = step, now
        rate = (step - step_before) / max(1e-9, now - time_before)
        details = [f"{rate:.1f} steps/s"]
        for name, value in row.items():
            if name.startswith("loss/"):
                details.append(f"{name.removeprefix('loss/')} {value:.3f}")
        if row["skipped"]:
            details.append(f"{row['skipped']} skipped")
        self._update(self.title, step, run.steps, "  ".join(details))

    def _show_metrics(self, row: Mapping[str, Any]) -> None:
        metrics = []
        for name, value in row.items():
            # "[" marks the metrics of a group, such as accuracy[race=white]: too many for one line.
            if name != "step" and "[" not in name:
                metrics.append(f"{name.removeprefix('validation/')} {value:.3f}")
        self.note(f"step {row['step']}, validation: {'  '.join(metrics)}")

    def _update(self, name: str, done: int, total: int, details: str) -> None:
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total, details="")
        self.bars.update(self.tasks[name], completed=done, total=total, details=details)


def metrics_table(title: str, measured: Measured) -> Table:
    """One row per metric."""
    table = Table("metric", "value", title=Text(title), title_justify="left")
    for name, value in measured.metrics.items():
        table.add_row(Text(name), f"{value:.4f}")
    return table


def arms_table(arms: Sequence[Arm]) -> Table:
    """One row per metric and one column per arm; below them the pretext tasks and the compute."""
    title = Text("test split, last step")
    names = [arm.name for arm in arms]
    table = Table("metric", *names, title=title, title_justify="left")
    for metric in arms[0].test:
        table.add_row(Text(metric), *(f"{arm.test[metric]:.4f}" for arm in arms))

    pretext_metrics: list[str] = []
    for arm in arms:
        pretext_metrics += [name for name in arm.pretexts if name not in pretext_metrics]
    for metric in pretext_metrics:
        cells = [f"{arm.pretexts[metric]:.4f}" if metric in arm.pretexts else "" for arm in arms]
        table.add_row(Text(f"{metric}, validation"), *cells)

    table.add_row("compute (CPU s)", *(f"{arm.cpu_s:.0f}" for arm in arms))
    return table


def print_result(result: Result) -> None:
    """Print the steps, the compute, the run folder, and the next command."""
    skipped = f" ({result.skipped} skipped)" if result.skipped else ""
    print_line(f"{result.steps} steps{skipped}, compute {result.cpu_s:.0f} CPU s")
    print_line(f"run folder: {result.run}")
    print_line(f"evaluate it: mtl eval {result.run}")
