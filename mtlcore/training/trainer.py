"""The run: prepare, step, log, evaluate and save until the last step; stop and resume cleanly."""

from __future__ import annotations

import math
import threading
from pathlib import Path

from attrs import define, evolve, field

from ..callbacks.guard import Callbacks
from ..callbacks.progress import ProgressReporter, SilentReporter
from ..config.experiment import Experiment
from ..contracts import Batch
from ..data.dataset import RunData, open_data
from ..data.loader import DirectLoader, Loader
from ..data.sampler import Sampler
from ..evaluation.best import LOSS, weighted_loss
from ..evaluation.measure import Measured, measure, measure_pretexts
from ..model.inference import Inference
from ..runs import RunFolder
from .build import build_train_state, dry_run, try_weighting
from .checkpoint import Checkpoints
from .devices import fabric_for, leave_together, with_micro_batches
from .memory import keep_freed_memory
from .provenance import environment, resolved
from .record import Record
from .result import Result, outcome, result_of
from .state import TrainState
from .step import train_step
from .stop import Interrupted, agree, stop_flag


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
    trainer = prepared_trainer(experiment, out, resume, reporter)
    fabric = trainer.train_state.fabric
    try:
        result = trainer.run()
    except Interrupted:
        leave_together(fabric)
        raise
    leave_together(fabric)
    return result


def prepared_trainer(
    experiment: Experiment,
    out: Path,
    resume: bool = False,
    reporter: ProgressReporter | None = None,
) -> Trainer:
    """Read the data, build the networks, and create or resume the run folder: ready to step.

    Raises MtlError for everything that a user can correct.
    """
    keep_freed_memory()
    fabric = fabric_for(experiment)
    experiment = with_micro_batches(experiment, fabric.world_size)
    is_main = fabric.is_global_zero
    # On every rank, and before any image is read.
    if resume:
        RunFolder.open(out)
    else:
        RunFolder.refuse_existing(out)
    fabric.barrier()
    if reporter is None or not is_main:
        reporter = SilentReporter()
    try_weighting(experiment, fabric.device)

    # The test split is for `mtl eval` alone: a run never reads it.
    experiment, data = open_data(experiment, {"train", "validation"}, reporter.progress)
    for line in data.report:
        reporter.note(line)
    sampler = Sampler(data, experiment)
    loader = DirectLoader(data, sampler, fabric.device)
    steps = _steps(experiment, sampler)
    train_state = build_train_state(experiment, fabric, steps, sampler.steps_per_epoch, resume)
    dry_run(train_state, loader.batch(0, 0))

    record = Record(experiment.train.max_skipped)
    callbacks = Callbacks.of(train_state, data, out, reporter)
    callbacks.check()
    if is_main and not resume:
        # Only after all checks: a run that cannot train leaves nothing behind.
        RunFolder.create(out, *resolved(experiment))
    fabric.barrier()
    checkpoints = Checkpoints(RunFolder(out), train_state, record, callbacks)
    trainer = Trainer(train_state, data, loader, record, callbacks, checkpoints)
    resumed = resume and checkpoints.resume(data)
    # A run that was killed before its first checkpoint may not have recorded its environment.
    if is_main and not resumed:
        checkpoints.folder.update_provenance(environment(experiment, data, fabric))
    return trainer


def _steps(experiment: Experiment, sampler: Sampler) -> int:
    """Optimizer steps of the run, from `train.steps` or `train.epochs`."""
    epochs = experiment.train.epochs or 1
    return experiment.train.steps or math.ceil(epochs * sampler.steps_per_epoch)


@define(eq=False)
class Trainer:
    """The training loop and what happens between its steps.

    Every rank runs it and evaluates. Only the main process logs, saves and calls callbacks.

    ended: a callback ended the run, and all ranks know it.
    measured: the last evaluation.
    """

    train_state: TrainState
    data: RunData
    loader: Loader
    record: Record
    callbacks: Callbacks
    checkpoints: Checkpoints
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
        with stop_flag() as stop, self.callbacks.closing():
            self.callbacks.call("on_train_start")
            while not self.over:
                self.advance()
                self._between_steps(stop)
            self.callbacks.call("on_train_end")
            self._report(self.callbacks.take_unwritten())
            return self._finish()

    @property
    def over(self) -> bool:
        """All steps are done, or a callback ended the run at this one."""
        return self.train_state.step >= self.train_state.steps or self.ended

    # ------------------------------------------------------------------------------ one step

    def advance(self) -> None:
        """One optimizer step: load, train, and log if it is due."""
        train_state = self.train_state
        train = train_state.experiment.train
        self._set_learning_rate(train_state.lr_at(train_state.step))
        batches = [self._load(micro_batch) for micro_batch in range(train_state.accumulated)]
        logged = train_step(train_state, batches)
        self.record.add(logged, train_state.encoded * train_state.fabric.world_size)
        if _is_due(train_state.step, train.log_every) or train_state.step == train_state.steps:
            self._log()

    def _set_learning_rate(self, lr: float) -> None:
        groups = [*self.train_state.optimizer.param_groups]
        if self.train_state.loss_weighting_optimizer:
            groups += self.train_state.loss_weighting_optimizer.param_groups
        for group in groups:
            group["lr"] = lr

    def _load(self, micro_batch: int) -> Batch:
        number = self.train_state.global_micro_batch(micro_batch)
        return self.loader.batch(self.train_state.step, number)

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
            self.checkpoints.save("last")
        if stopping:
            raise Interrupted(self.checkpoints.folder.path, step)

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
        """Measure all tasks and pretexts on the validation split, on all ranks, and report."""
        indices = self.data.split.get("validation")
        if indices is None or not len(indices):
            return
        train_state, experiment = self.train_state, self.train_state.experiment
        device = train_state.fabric.device
        supervised = measure(self._inference(), experiment, self.data, indices, device)
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

    def _inference(self) -> Inference:
        """The network that is evaluated: the EMA copy if there is one."""
        return self.callbacks.network

    # ------------------------------------------------------------------------------ logs and files

    def _log(self) -> None:
        """Log the means since the last logged step."""
        means = self.record.flush()
        if not self.is_main:
            return
        train_state = self.train_state
        row = {
            "step": train_state.step,
            "epoch": round(train_state.step / train_state.steps_per_epoch, 3),
            "lr": train_state.lr_at(train_state.step - 1),
            **means,
            "skipped": self.record.skipped,
            "encoded": self.record.encoded,
            "cpu_s": round(self.record.cpu_s, 2),
        }
        self.callbacks.call("on_log", row)

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

    def _finish(self) -> Result:
        """Record the result of the run in run.json."""
        folder, train_state, record = self.checkpoints.folder, self.train_state, self.record
        measured = evolve(self.measured, metrics=self.callbacks.metrics)
        if self.is_main:
            folder.update_provenance(outcome(train_state, record, self.callbacks, measured))
        return result_of(folder.path, train_state.step, measured, record)


def _is_due(step: int, every: int) -> bool:
    """Whether something that happens each `every`-th step happens now; never if `every` is 0."""
    return every > 0 and step % every == 0
