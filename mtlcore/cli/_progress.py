"""Progress bars of a run, and the tables of metrics after it.

Labels and paths are the user's own text. They are shown as `Text`, so that rich does not read their
brackets as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

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

from ..callbacks.progress import TrainProgress
from ..demo import Arm
from ..evaluation.measure import Measured
from ..train.trainer import Result
from ._shared import console, print_line


class Bars:
    """A `ProgressReporter` for the terminal.

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

    def step(self, progress: TrainProgress) -> None:
        details = [f"{progress.rate:.1f} steps/s"]
        details += [f"{name} {value:.3f}" for name, value in progress.losses.items()]
        if progress.skipped:
            details.append(f"{progress.skipped} skipped")
        self._update(self.title, progress.step, progress.steps, "  ".join(details))

    def evaluated(self, step: int, measured: Measured) -> None:
        # "[" marks the metrics of a group, such as accuracy[race=white]: too many for one line.
        metrics = [
            f"{name} {value:.3f}" for name, value in measured.metrics.items() if "[" not in name
        ]
        self.note(f"step {step}, validation: {'  '.join(metrics)}")

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
