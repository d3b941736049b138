"""Train the runs of a study that are left. Any number of processes may do so at once."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence

from attrs import Factory, define

from ..callbacks.progress import ProgressReporter
from ..errors import MtlError
from ..training.stop import Interrupted
from .plan import Plan
from .results import Row, Run
from .training import Trainee
from .workspace import Workspace

WAIT_S = 5.0  # between two looks at the results of other processes
Say = Callable[[str], None]
"""Shows a line to the user."""
Chosen = Callable[[Plan], Sequence[Run]]
"""The runs that are left, of those that were asked for."""


@define
class Work:
    """Trains what is left.

    failed: arm -> why its run failed. Its other runs are not tried by this process.
    """

    workspace: Workspace
    say: Say
    reporter: ProgressReporter | None = None
    failed: dict[str, str] = Factory(dict)

    def run(self, chosen: Chosen) -> None:
        """Train runs until none is left.

        Raises MtlError where two arms fail with the same error: it is not theirs.
        """
        while left := self._left(chosen):
            # any() stops after the first run: its result may change which runs are left.
            if not any(self._finish(run) for run in left):
                # Other processes train all of them; their results may add further runs.
                time.sleep(WAIT_S)

    def _left(self, chosen: Chosen) -> list[Run]:
        return [run for run in chosen(self.workspace.plan()) if run.arm.name not in self.failed]

    def _finish(self, run: Run) -> bool:
        """Train a run unless it has ended. Return False if another process has claimed it."""
        with self.workspace.claimed(run) as is_ours:
            if is_ours and self.workspace.row(run) is None:
                self._train(run)
            return is_ours

    def _train(self, run: Run) -> None:
        plan = self.workspace.plan()
        ended, left = len(plan.results.rows), len(plan.left())
        self.say(f"run {ended + 1} of {ended + left}: {run.name} ({shown(run)})")
        trainee = Trainee(self.workspace, self.reporter, self.say)
        try:
            row = trainee.train_and_record(run)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - one arm must not end the study
            self._set_aside(run, error)
            return
        self.say(_outcome(run, row))

    def _set_aside(self, run: Run, error: Exception) -> None:
        reason = str(error)
        if self.workspace.frozen or reason in self.failed.values():
            raise error
        self.failed[run.arm.name] = reason
        if isinstance(error, MtlError):
            self.say(f"{run.name} failed: {reason}")
            return
        file = self.workspace.work / f"{run.name}.error.txt"
        file.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        self.say(f"{run.name} failed: {type(error).__name__}: {reason} (traceback: {file})")


def shown(run: Run) -> str:
    """Return a run in words: "puzzling, seed 1"."""
    words = [run.arm.name, f"seed {run.seed}"]
    if run.stage == "tune":
        words.insert(1, f"trial {', '.join(run.arm.trials[run.trial])}")
    elif run.stage != "main":
        words.insert(0, run.stage)
    return ", ".join(words)


def _outcome(run: Run, row: Row) -> str:
    if "failed" in row:
        return f"{run.name} has no result: {row['failed']}"
    metric = row["metric"]
    value = row["validation"].get(metric, float("nan"))
    return f"{run.name}: {row['cpu_s']:.0f} CPU s, {metric} {value:.4f}, validation"
