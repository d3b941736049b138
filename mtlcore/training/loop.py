"""The training loop of a run: steps, evaluation, callbacks, checkpoints, and a clean stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from attrs import define, evolve, field

from ..callbacks.guard import Callbacks
from ..data.dataset import RunData
from ..errors import MtlError
from ..evaluation.best import LOSS, weighted_loss
from ..evaluation.measure import Measured, measure, measure_pretexts
from ..files import in_shell
from .checkpoint import Checkpoints
from .record import Diverged, Record
from .result import Result, outcome, result_of
from .state import TrainState
from .stop import Interrupted, StopRequest, agree, stop_request

if TYPE_CHECKING:
    from .step_log import StepLog
    from .trainer import Trainer


@define(eq=False)
class RunLoop:
    """The loop over the steps of a trainer, and everything between them.

    Every rank runs it and evaluates. Only the main process logs, saves and calls callbacks.

    ended: a callback ended the run, and all ranks know it.
    measured: the last evaluation.
    """

    trainer: Trainer
    train_state: TrainState
    data: RunData
    record: Record
    callbacks: Callbacks
    checkpoints: Checkpoints
    log: StepLog
    ended: bool = False
    measured: Measured = field(factory=Measured)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process."""
        return self.callbacks.is_main

    def run(self) -> Result:
        """Train to the last step, or until a callback ends the run."""
        self.ended = self.callbacks.stopped is not None
        folder, step = self.checkpoints.folder, self.train_state.step
        if self.over and folder.provenance().get("finished"):
            self.callbacks.note(f"this run is finished: {step} steps")
            measured = Measured(folder.provenance().get("validation", {}))
            return result_of(folder.path, step, measured, self.record)
        with stop_request() as stop, self.callbacks.closing():
            self.callbacks.call("on_train_start")
            if self.checkpoints.pending_step == self.train_state.step:
                # The run ended in the evaluation of this step, after the step was saved.
                self._between_steps(stop)
            elif self.over:
                self._catch_up()
            while not self.over:
                self.trainer.step()
                self._between_steps(stop)
            self._require_a_good_step()
            # A run that was killed before it was called finished may have told its callbacks.
            if self.checkpoints.closed_step != self.train_state.step:
                self._close()
            return self._finish()

    @property
    def over(self) -> bool:
        """All steps are done, or a callback ended the run at this one."""
        return self.train_state.step >= self.train_state.steps or self.ended

    def _catch_up(self) -> None:
        """Evaluate and save the last step if a custom training loop took it without doing so."""
        evaluated = saved = True
        if self.is_main:
            folder, step = self.checkpoints.folder, self.train_state.step
            checkpoint = folder.checkpoint("last")
            saved = checkpoint is not None and checkpoint.step == step
            evaluated = any(_is_evaluation(row) for row in folder.log.rows() if row["step"] == step)
        device = self.train_state.fabric.device
        evaluates, saves = agree(not evaluated, not saved, device)
        if evaluates:
            self._evaluate()
            self._report(self.callbacks.take_unwritten())
        if evaluates or saves:
            self.checkpoints.save("last")

    # ------------------------------------------------------------------------------ between steps

    def _between_steps(self, stop: StopRequest) -> None:
        """Evaluate, save, call callbacks and stop: whatever is due at this step."""
        train_state, train = self.train_state, self.train_state.experiment.train
        step = train_state.step
        epoch_ends = is_due(step, train_state.steps_per_epoch)
        saves = is_due(step, train.save_every)
        evaluates = is_due(step, train.eval_every) or step == train_state.steps
        if evaluates and (saves or step == train_state.steps):
            self._save_before_evaluation()
        # A callback that ended the run at the end of an epoch was called before the run was saved.
        if epoch_ends and (evaluates or not self.ended):
            self.callbacks.call("on_epoch_end")
        if evaluates:
            self._evaluate()
        called = epoch_ends or evaluates or saves
        asked, self.ended = self._agree(stop.signal is not None, called)
        if self.ended:
            self.log.flush()
        if self.ended and not evaluates:
            self._save_before_evaluation()
            self._evaluate()
        self._report(self.callbacks.take_unwritten())
        stopping = asked and not self.over
        if self.over or stopping or saves:
            self.checkpoints.save("last")
        if stopping:
            raise Interrupted(self.checkpoints.folder.path, step, stop.signal)

    def _save_before_evaluation(self) -> None:
        """Save this step before its evaluation, which may fail, take long, or run out of memory."""
        if self.checkpoints.pending_step != self.train_state.step:
            self.checkpoints.save("last", pending=True)

    def _agree(self, stop: bool, called: bool) -> tuple[bool, bool]:
        """Whether a signal asked to stop, and whether a callback ended the run.

        Both are the same on all ranks. stop: this rank got a signal. called: callbacks ran at
        this step.
        """
        train_state, ended = self.train_state, self.callbacks.stopped is not None
        if train_state.fabric.world_size == 1:
            return stop, ended
        # Ranks talk only where the host waits anyway, at logged steps, and where a callback may
        # have ended the run. The condition is the same on all ranks, or they would wait forever.
        logs = train_state.step % train_state.experiment.train.log_every == 0
        callbacks_ran = called and bool(train_state.experiment.callbacks)
        if not logs and not callbacks_ran:
            return False, False
        return agree(stop, ended, train_state.fabric.device)

    def _evaluate(self) -> None:
        """Measure all tasks and pretexts on the validation split, on all ranks, and report.

        Raises MtlError if a metric fails. It names the checkpoint from which the run can resume.
        """
        indices = self.data.split.get("validation")
        if indices is None or not len(indices):
            return
        self.checkpoints.require_finite()
        try:
            self._measure(indices)
        except MtlError as error:
            folder = self.checkpoints.folder
            saved = folder.checkpoint()
            if saved is None:
                raise
            raise MtlError(
                f"{error}; step {saved.step} is saved: when this works, "
                f"resume with: mtl train --resume {in_shell(folder.path)}"
            ) from error

    def _measure(self, indices: np.ndarray) -> None:
        train_state, experiment = self.train_state, self.train_state.experiment
        device = train_state.fabric.device
        supervised = measure(self.callbacks.network, experiment, self.data, indices, device)
        pretexts = measure_pretexts(train_state.model, experiment, self.data, indices, device)
        if not self.is_main:
            return
        metrics = supervised.metrics | pretexts.metrics
        if not experiment.tasks:
            # Without a task, the weighted sum of the pretext losses selects the best checkpoint.
            metrics[LOSS] = weighted_loss(experiment, pretexts.metrics)
        tables = supervised.tables | pretexts.tables
        metrics = self.callbacks.evaluated(metrics, tables)
        self.measured = Measured(metrics, tables, len(indices))
        self._report(metrics)

    def _report(self, metrics: dict[str, float]) -> None:
        """Log validation metrics; save the best checkpoint if its metric improved."""
        if not metrics or not self.is_main:
            return
        row: dict[str, float] = {"step": self.train_state.step}
        for name, value in metrics.items():
            row[f"validation/{name}"] = value
        self.callbacks.call("on_log", row)
        self.checkpoints.save_if_best(metrics)

    # ------------------------------------------------------------------------------ the end

    def _close(self) -> None:
        """Tell the callbacks that the training ends, and log what they add."""
        self.callbacks.call("on_train_end")
        added = self.callbacks.take_unwritten()
        self._report(added)
        if added:
            # A run that takes more steps later keeps this row, and the best value so far.
            self.checkpoints.save("last", closed=True)

    def _require_a_good_step(self) -> None:
        """Raise Diverged if every step of the run was skipped."""
        steps = self.train_state.step
        if self.record.skipped_so_far() >= steps > 0:
            raise Diverged(
                f"all {steps} steps of the run were skipped, because their gradient was not finite:"
                " nothing was learned. Set a lower optimizer.lr or check the data and the losses, "
                "then train into a new folder"
            )

    def _finish(self) -> Result:
        """Record the result of the run in run.json."""
        folder, train_state, record = self.checkpoints.folder, self.train_state, self.record
        measured = evolve(self.measured, metrics=self.callbacks.metrics)
        if self.is_main:
            folder.update_provenance(outcome(train_state, record, self.callbacks, measured))
        return result_of(folder.path, train_state.step, measured, record)


def _is_evaluation(row: Mapping[str, object]) -> bool:
    """Whether this row of the log holds validation metrics."""
    return any(name.startswith("validation/") for name in row)


def is_due(step: int, every: int) -> bool:
    """Whether something that happens each `every`-th step happens now; never if `every` is 0."""
    return every > 0 and step % every == 0
