"""What a person sees while a run goes on: bars with losses, rate and time left; then a table.

Labels and paths are a user's own: they are shown as `Text`, in which brackets are brackets and no markup of rich.
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
from ._shared import console, say


class Bars:
    """A `ProgressReporter` for the terminal. quiet: shows nothing (JSON goes to the same terminal)."""

    def __init__(self, quiet: bool = False, title: str = "training") -> None:
        self.title = title
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=console,
            disable=quiet,
        )
        self.rows: dict[str, TaskID] = {}

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
        self._row(what, done, total, "")

    def note(self, text: str) -> None:
        if not self.bars.disable:
            self.bars.console.print(Text(text))

    def step(self, progress: TrainProgress) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        skipped = f"  {progress.skipped} skipped" if progress.skipped else ""
        self._row(
            self.title,
            progress.step,
            progress.steps,
            f"{progress.rate:.1f} steps/s  {losses}{skipped}",
        )

    def evaluated(self, step: int, measured: Measured) -> None:
        figures = "  ".join(
            f"{name} {value:.3f}" for name, value in measured.metrics.items() if "[" not in name
        )
        self.note(f"step {step}, validation: {figures}")

    def _row(self, name: str, done: int, total: int, said: str) -> None:
        if name not in self.rows:
            self.rows[name] = self.bars.add_task(name, total=total, said="")
        self.bars.update(self.rows[name], completed=done, total=total, said=said)


def metrics_table(title: str, measured: Measured) -> Table:
    """One line a metric."""
    table = Table("metric", "value", title=Text(title), title_justify="left")
    for name, value in measured.metrics.items():
        table.add_row(Text(name), f"{value:.4f}")
    return table


def arms_table(arms: Sequence[Arm]) -> Table:
    """One line a metric, one column an arm; then what the pretexts learned, and what each arm cost."""
    table = Table(
        "metric",
        *(arm.name for arm in arms),
        title=Text("test split, last step"),
        title_justify="left",
    )
    for name in arms[0].test:
        table.add_row(Text(name), *(f"{arm.test[name]:.4f}" for arm in arms))
    for name in dict.fromkeys(name for arm in arms for name in arm.pretexts):
        told = (f"{arm.pretexts[name]:.4f}" if name in arm.pretexts else "" for arm in arms)
        table.add_row(Text(f"{name}, validation"), *told)
    table.add_row("CPU seconds", *(f"{arm.cpu_s:.0f}" for arm in arms))
    return table


def say_result(result: Result) -> None:
    """Where the run lies, what it cost, and what to do next."""
    skipped = f", {result.skipped} skipped" if result.skipped else ""
    say(
        f"{result.steps} steps{skipped}, {result.cpu_s:.0f} CPU seconds; the run lies in {result.run}"
    )
    say(f"evaluate it: mtl eval {result.run}")
