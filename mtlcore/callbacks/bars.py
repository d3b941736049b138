"""Progress of a run: bars in a terminal or a notebook, printed lines elsewhere.

Labels and paths are the user's own text. They are shown as `Text`, so that rich does not read their
brackets as markup.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import TracebackType
from typing import Any

from rich import get_console
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ..contracts import CallbackContext
from ..evaluation.groups import without_groups
from ..stdout import lossy_stdout
from .progress import ProgressReporter, SilentReporter

WIDE, WIDE_BAR, NARROW_BAR = 100, 24, 8  # columns: of a wide terminal, of the bar
ETA = len("0:00:00")
LINE_EVERY_S = 5.0  # seconds between two lines of losses where bars can't be drawn


class Bars(ProgressReporter):
    """Progress bars: of the preparation, and of the training.

    In a notebook, rich draws them with ipywidgets. Without that package, lines are printed, one
    every few seconds.

    quiet: show nothing, for commands that print JSON to the same terminal.
    title: the name of the bar of training steps.
    """

    def __init__(
        self, quiet: bool = False, title: str = "training", console: Console | None = None
    ) -> None:
        self.title = title
        self.quiet = quiet
        self.console = console or get_console()
        self.draws = not self.console.is_jupyter or _has_widgets()
        # Below 100 columns the bar is short. Losses give way before anything else.
        self.bar_width = WIDE_BAR if self.console.width >= WIDE else NARROW_BAR
        self.bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=self.bar_width),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[details]}", markup=False, table_column=Column(no_wrap=True)),
            console=self.console,
            disable=quiet or not self.draws,
        )
        self.tasks: dict[str, TaskID] = {}
        self.logged_at = (0, time.perf_counter())  # step and time of the last logged step
        self.line_at = float("-inf")  # time of the last line of losses
        self._shown = ExitStack()

    def __enter__(self) -> Bars:
        # A terminal or pipe that goes away must not end a run.
        self._shown = ExitStack()
        self._shown.enter_context(lossy_stdout())
        self._shown.enter_context(self.bars)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shown.close()

    def progress(self, what: str, done: int, total: int) -> None:
        self._update(what, done, total, "")

    def note(self, text: str) -> None:
        if self.quiet:
            return
        if self.draws:
            self.console.print(Text(text))
        else:
            # Plain text: in a notebook, each `Console.print` makes a separate block.
            print(text)  # noqa: T201

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
        if row["skipped"]:
            details.append(f"{row['skipped']} skipped")
        for name, value in row.items():
            if name.startswith("loss/"):
                details.append(f"{name.removeprefix('loss/')} {value:.3f}")
        if self.draws:
            taken = max(map(len, [self.title, *self.tasks])) + self.bar_width + ETA
            taken += 2 * len(str(run.steps)) + len("/") + 4  # a space between two columns
            details = fitting(details, self.console.width - taken)
        self._update(self.title, step, run.steps, "  ".join(details))

    def _show_metrics(self, row: Mapping[str, Any]) -> None:
        metrics = []
        # The metrics of all groups are too many for one line.
        for name, value in without_groups(row).items():
            if name != "step":
                metrics.append(f"{name.removeprefix('validation/')} {value:.3f}")
        self.note(f"step {row['step']}, validation: {'  '.join(metrics)}")

    def _update(self, name: str, done: int, total: int, details: str) -> None:
        if not self.draws:
            self._line(name, done, total, details)
            return
        if name not in self.tasks:
            self.tasks[name] = self.bars.add_task(name, total=total, details="")
        self.bars.update(self.tasks[name], completed=done, total=total, details=details)

    def _line(self, name: str, done: int, total: int, details: str) -> None:
        """Print a line instead of a bar, every few seconds and at the end."""
        now = time.perf_counter()
        if done >= total or now - self.line_at >= LINE_EVERY_S:
            self.line_at = now
            self.note(f"{name} {done}/{total}  {details}".rstrip())


def fitting(parts: Sequence[str], width: int) -> list[str]:
    """Return the first parts, and "..." for those that do not fit into `width` columns.

    The first part always stays. Parts are joined by two spaces.
    """
    kept = list(parts[:1])
    for number, part in enumerate(parts[1:], 2):
        more = [] if number == len(parts) else ["..."]
        if len("  ".join([*kept, part, *more])) > width:
            return [*kept, "..."] if len("  ".join([*kept, "..."])) <= width else kept
        kept.append(part)
    return kept


def reporter_of(
    progress: bool | ProgressReporter,
) -> tuple[ProgressReporter, AbstractContextManager[object]]:
    """The reporter of a run, and the context in which it is visible.

    progress: True shows bars, False shows nothing. A `ProgressReporter` is used as it is.
    """
    if isinstance(progress, ProgressReporter):
        return progress, nullcontext()
    if not progress:
        return SilentReporter(), nullcontext()
    bars = Bars()
    return bars, bars


def _has_widgets() -> bool:
    return importlib.util.find_spec("ipywidgets") is not None
