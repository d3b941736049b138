"""The run: prepare, step, log, evaluate and save until the last step; stop and resume cleanly."""

from __future__ import annotations

import math
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from attrs import define, evolve, field, frozen

from ..callbacks.guard import Callbacks
from ..callbacks.progress import ProgressReporter, SilentReporter, TrainProgress
from ..callbacks.tensorboard import Board
from ..config.experiment import Experiment
from ..contracts import PreparedBatch
from ..data.dataset import RunData, open_data
from ..data.sampler import Sampler
from ..evaluation.measure import Measured, measure, measure_pretexts
from ..model.inference import Inference
from ..model.views import prepare
from ..networks import sum_over_ranks
from ..runs import RunFolder, Which, write_errors_as_mtl_error
from .build import build_train_state, dry_run, try_weighting
from .checkpoint import check_same_data, load_checkpoint, save_checkpoint
from .devices import fabric_for, leave_together
from .memory import keep_freed_memory
from .provenance import environment, resolved
from .record import Record
from .state import TrainState
from .step import train_step
from .stop import stop_flag


class Interrupted(Exception):  # noqa: N818 - not an error: a user stopped the run
    """A signal stopped the run, and it was saved at this step."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; resume with: mtl train --resume {run}")


@frozen
class Result:
    """A finished run.

    run: its folder. steps: optimizer steps taken. measured: on the validation split, at the last
    step. cpu_s: process CPU time, seconds. encoded: images that the encoder processed.
    skipped: steps whose gradient was not finite.
    """

    run: Path
    steps: int
    measured: Measured
    cpu_s: float
    encoded: int
    skipped: int


def train(
    experiment: Experiment,
    out: Path,
    *,
    resume: bool = False,
    reporter: ProgressReporter | None = None,
) -> Result:
    """Train an experiment into the folder `out`, or resume the run of that folder.

    Raises MtlError for everything that a user can correct, and Interrupted after Ctrl-C or
    SIGTERM, once the run is saved.
    """
    keep_freed_memory()
    fabric = fabric_for(experiment)
    is_main = fabric.is_global_zero
    if not resume:
        # On every rank, and before any image is read.
        RunFolder.refuse_existing(out)
    fabric.barrier()
    if reporter is None or not is_main:
        reporter = SilentReporter()
    try_weighting(experiment, fabric.device)

    # The test split is for `mtl eval` alone: a run never reads it.
    experiment, data = open_data(experiment, {"train", "validation"}, reporter.progress)
    for line in data.report:
        reporter.note(line)
    sampler = Sampler(data, experiment, fabric.world_size)
    steps = _steps(experiment, sampler)
    train_state = build_train_state(experiment, fabric, steps, sampler.steps_per_epoch, resume)
    dry_run(train_state, sampler.batch(0, 0, fabric.device))

    folder = RunFolder(out)
    record = Record(experiment.train.max_skipped)
    trainer = Trainer(train_state, data, sampler, folder, record, reporter, is_main)
    trainer.callbacks.check()
    if is_main and not resume:
        # Only after all checks: a run that cannot train leaves nothing behind.
        RunFolder.create(out, *resolved(experiment))
    fabric.barrier()
    if resume:
        trainer.resume()
    else:
        trainer.note_environment()
    try:
        result = trainer.run()
    except Interrupted:
        leave_together(fabric)
        raise
    leave_together(fabric)
    return result


def _steps(experiment: Experiment, sampler: Sampler) -> int:
    """Optimizer steps of the run, from `train.steps` or `train.epochs`."""
    epochs = experiment.train.epochs or 1
    return experiment.train.steps or math.ceil(epochs * sampler.steps_per_epoch)


@define(eq=False)
class Trainer:
    """The training loop and what happens between its steps.

    Every rank runs it. Only the main process logs, evaluates, saves and calls callbacks.

    best: the best validation value so far, of the metric that selects the best checkpoint.
    ended: a callback ended the run, and all ranks know it.
    measured: the last evaluation. board: TensorBoard, if it is switched on.
    """

    train_state: TrainState
    data: RunData
    sampler: Sampler
    folder: RunFolder
    record: Record
    reporter: ProgressReporter
    is_main: bool
    best: float | None = None
    ended: bool = False
    measured: Measured = field(factory=Measured)
    board: Board | None = None
    callbacks: Callbacks = field(init=False)
    _logged_at: tuple[int, float] = (0, 0.0)

    def __attrs_post_init__(self) -> None:
        self.callbacks = Callbacks.of(
            self.train_state, self.data, self.folder.path, self.reporter, self.is_main
        )

    def run(self) -> Result:
        """Train to the last step, or until a callback ends the run."""
        if self.over and self.folder.provenance().get("finished"):
            self.reporter.note(f"this run is finished: {self.train_state.step} steps")
            self.measured = Measured(self.folder.provenance().get("validation", {}))
            return self._result()
        if self.train_state.experiment.train.tensorboard and self.is_main:
            self.board = Board(self.folder.path / "tensorboard", self.train_state.step)
        with stop_flag() as stop:
            self.callbacks.call("on_train_start")
            while not self.over:
                self.advance()
                self._between_steps(stop)
            self.callbacks.call("on_train_end")
            self._report(self.callbacks.take_unwritten())
        if self.board:
            with self._write_errors():
                self.board.close()
        return self._finish()

    @property
    def over(self) -> bool:
        """All steps are done, or a callback ended the run at this one."""
        return self.train_state.step >= self.train_state.steps or self.ended

    # ------------------------------------------------------------------------------ one step

    def advance(self) -> None:
        """One optimizer step: draw, prepare, train, and log if it is due."""
        train_state = self.train_state
        train = train_state.experiment.train
        self._set_learning_rate(train_state.lr_at(train_state.step))
        prepared = [self._prepare(micro_batch) for micro_batch in range(train.accumulate)]
        encoded = sum(len(images) for batch in prepared for images in batch.images)
        logged = train_step(train_state, prepared)
        self.record.add(logged, encoded * train_state.fabric.world_size)
        if _is_due(train_state.step, train.log_every) or train_state.step == train_state.steps:
            self._log()

    def _set_learning_rate(self, lr: float) -> None:
        groups = [*self.train_state.optimizer.param_groups]
        if self.train_state.loss_weighting_optimizer:
            groups += self.train_state.loss_weighting_optimizer.param_groups
        for group in groups:
            group["lr"] = lr

    def _prepare(self, micro_batch: int) -> PreparedBatch:
        train_state, fabric = self.train_state, self.train_state.fabric
        number = train_state.global_micro_batch(micro_batch)
        batch = self.sampler.batch(train_state.step, number, fabric.device)
        return prepare(
            train_state.experiment,
            batch,
            train_state.keyed_rng(micro_batch),
            micro_batches=train_state.experiment.train.accumulate,
            world=fabric.world_size,
            progress=train_state.progress,
        )

    # ------------------------------------------------------------------------------ between steps

    def _between_steps(self, stop: threading.Event) -> None:
        """Evaluate, save, call callbacks and stop: whatever is due at this step."""
        train_state, train = self.train_state, self.train_state.experiment.train
        step = train_state.step
        epoch_ends = _is_due(step, train_state.steps_per_epoch)
        saves = _is_due(step, train.save_every)
        evaluates = _is_due(step, train.eval_every) or step == train_state.steps
        if epoch_ends:
            self.callbacks.call("on_epoch_end")
        if evaluates:
            self._evaluate()
        called = epoch_ends or evaluates or saves
        asked, self.ended = self._agree(stop.is_set(), called)
        if self.ended and not evaluates:
            self._evaluate()
        self._report(self.callbacks.take_unwritten())
        stopping = asked and not self.over
        if self.over or stopping or saves:
            self._save("last")
        if stopping:
            raise Interrupted(self.folder.path, step)

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
        flags = torch.tensor([float(stop), float(ended)], device=train_state.fabric.device)
        stop, ended = (sum_over_ranks(flags) > 0).tolist()
        return stop, ended

    def _evaluate(self) -> None:
        """Measure all tasks and pretexts on the validation split, and report the metrics."""
        indices = self.data.split.get("validation")
        if not self.is_main or indices is None or not len(indices):
            return
        train_state, experiment = self.train_state, self.train_state.experiment
        device = train_state.fabric.device
        supervised = measure(self._inference(), experiment, self.data, indices, device)
        pretexts = measure_pretexts(train_state.model, experiment, self.data, indices, device)
        metrics = supervised.metrics | pretexts.metrics
        if not experiment.tasks:
            # Without a task, the weighted sum of the pretext losses selects the best checkpoint.
            metrics["loss"] = sum(
                entry.weight * pretexts.metrics[f"{label}/loss"]
                for label, entry in experiment.pretexts.items()
            )
        metrics = self.callbacks.evaluated(metrics)
        self.measured = Measured(metrics, supervised.tables | pretexts.tables, len(indices))
        self.reporter.evaluated(train_state.step, self.measured)
        self._report(metrics)

    def _inference(self) -> Inference:
        """The network that is evaluated: the EMA copy if there is one."""
        if self.train_state.ema is None:
            return self.train_state.model.inference()
        copy = self.train_state.ema.copy
        assert isinstance(copy, Inference)
        return copy

    # ------------------------------------------------------------------------------ logs and files

    def note_environment(self) -> None:
        """Record versions, device and data of a run that begins."""
        if self.is_main:
            train_state = self.train_state
            self.folder.update_provenance(
                environment(train_state.experiment, self.data, train_state.fabric)
            )

    def _log(self) -> None:
        """Write and show the means since the last logged step."""
        train_state, wall_before = self.train_state, self.record.wall_s
        means = self.record.flush()
        seconds = max(1e-9, self.record.wall_s - wall_before)
        rate = (train_state.step - self._logged_at[0]) / seconds
        self._logged_at = train_state.step, self.record.wall_s
        if not self.is_main:
            return
        step, lr = train_state.step, train_state.lr_at(train_state.step - 1)
        self._write(
            {
                "step": step,
                "epoch": round(step / train_state.steps_per_epoch, 3),
                "lr": lr,
                **means,
                "skipped": self.record.skipped,
                "encoded": self.record.encoded,
                "cpu_s": round(self.record.cpu_s, 2),
            }
        )
        losses: dict[str, float] = {}
        for name, mean in means.items():
            if name.startswith("loss/"):
                losses[name.removeprefix("loss/")] = mean
        self.reporter.step(
            TrainProgress(step, train_state.steps, losses, lr, rate, self.record.skipped)
        )

    def _report(self, metrics: dict[str, float]) -> None:
        """Log validation metrics; save the best checkpoint if its metric improved."""
        if not metrics or not self.is_main:
            return
        row: dict[str, float] = {"step": self.train_state.step}
        for name, value in metrics.items():
            row[f"validation/{name}"] = value
        self._write(row)
        name = self.callbacks.best_by
        value = metrics.get(name, math.nan)
        if not math.isnan(value) and self._is_better(value, self.callbacks.better[name]):
            self.best = value
            self._save("best")

    def _is_better(self, value: float, higher_is_better: bool) -> bool:
        if self.best is None:
            return True
        return value > self.best if higher_is_better else value < self.best

    def _write(self, row: dict[str, float]) -> None:
        """Write one row to metrics.jsonl and TensorBoard, and pass it to the callbacks."""
        with self._write_errors():
            self.folder.log(row)
            if self.board:
                self.board.write(row)
        self.callbacks.call("on_log", row)

    def _write_errors(self) -> AbstractContextManager[None]:
        """Turns an error of the disk into an MtlError that names the last checkpoint."""
        return write_errors_as_mtl_error(self.folder.path, self.folder.checkpoint())

    def _save(self, which: Which) -> None:
        if not self.is_main:
            return
        path = save_checkpoint(
            self.folder, which, self.train_state, self.record, self.callbacks, self.best
        )
        self.callbacks.call("on_checkpoint", path)

    def resume(self) -> None:
        """Restore the last checkpoint, and cut the log back to its step."""
        checkpoint = self.folder.checkpoint("last")
        if checkpoint is None:
            self.reporter.note("no checkpoint was saved yet: starting from step 0")
            if self.is_main:
                self.folder.truncate_log(0)
            # The run may have been killed before it recorded this.
            self.note_environment()
            return
        check_same_data(self.folder, self.data, self.reporter)
        self.best = load_checkpoint(checkpoint, self.train_state, self.record, self.callbacks)
        self.ended = self.callbacks.stopped is not None
        if self.is_main:
            self.folder.truncate_log(self.train_state.step)
        self.reporter.note(f"resuming from step {self.train_state.step}")

    # ------------------------------------------------------------------------------ the end

    def _finish(self) -> Result:
        """Record the result of the run in run.json."""
        record, train_state = self.record, self.train_state
        self.measured = evolve(self.measured, metrics=self.callbacks.metrics)
        if self.is_main:
            self.folder.update_provenance(
                {
                    "finished": True,
                    "steps": train_state.step,
                    "cpu_s": round(record.cpu_s, 2),
                    "wall_s": round(record.wall_s, 2),
                    "encoded": record.encoded,
                    "skipped": record.skipped,
                    "validation": self.measured.metrics,
                    **self._callback_outcomes(),
                }
            )
        return self._result()

    def _callback_outcomes(self) -> dict[str, object]:
        """Which callback stopped the run early, and which callbacks failed; for run.json."""
        callbacks = self.callbacks
        outcomes: dict[str, object] = {}
        if callbacks.stopped and self.train_state.step < self.train_state.steps:
            label, reason = callbacks.stopped
            outcomes["stopped_early"] = {
                "by": label,
                "reason": reason,
                "of": self.train_state.steps,
            }
        if callbacks.failures:
            outcomes["callback_failures"] = callbacks.failures
        return outcomes

    def _result(self) -> Result:
        record = self.record
        return Result(
            self.folder.path,
            self.train_state.step,
            self.measured,
            record.cpu_s,
            record.encoded,
            record.skipped,
        )


def _is_due(step: int, every: int) -> bool:
    """Whether something that happens each `every`-th step happens now; never if `every` is 0."""
    return every > 0 and step % every == 0
