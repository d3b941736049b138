"""The run: prepare, step, log, evaluate, save; stop when asked, go on where it stopped."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from attrs import define, evolve, field, frozen

from ..callbacks.guard import Callbacks
from ..callbacks.progress import ProgressReporter, SilentReporter, TrainProgress
from ..callbacks.tensorboard import Board
from ..config.experiment import Experiment
from ..data.dataset import RunData, open_data
from ..data.sampler import Sampler
from ..errors import MtlError
from ..evaluation.measure import Measured, measure, measure_pretexts
from ..model.views import prepare
from ..networks import total
from ..runs import RunFolder, Which, write_errors_as_mtl_error
from .build import build_train_state, dry_run, load_exactly, try_weighting
from .devices import fabric_for, leave_together
from .memory import keep_freed_memory
from .provenance import environment, resolved
from .record import Record
from .step import Logged, TrainState, train_step


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked for it
    """Stopped by a signal, after saving. step: how far it came."""

    def __init__(self, run: Path, step: int) -> None:
        super().__init__(f"stopped at step {step}, saved; go on with: mtl train --resume {run}")


@frozen
class Result:
    """What a finished run can say of itself. measured: on the validation split, at the last step."""

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
    """Train an experiment into the folder `out`, or go on with the run that lies there.

    Raises MtlError for what a user can mend, Interrupted after Ctrl-C or SIGTERM (with the run saved).
    """
    keep_freed_memory()
    fabric = fabric_for(experiment)
    main = fabric.is_global_zero
    if not resume:
        RunFolder.refuse_existing(out)  # on every rank, and before any image is read
    fabric.barrier()
    reporter = reporter if reporter is not None and main else SilentReporter()
    try_weighting(experiment, fabric.device)
    data = open_data(
        experiment, {"train", "validation"}, reporter.progress
    )  # test is for `mtl eval` alone
    for line in data.report:
        reporter.note(line)
    experiment = data.experiment
    sampler = Sampler(data, experiment, fabric.world_size)
    steps = experiment.train.steps or math.ceil(
        (experiment.train.epochs or 1) * sampler.steps_per_epoch
    )
    train_state = build_train_state(experiment, fabric, steps, sampler.steps_per_epoch, resume)
    dry_run(train_state, sampler.batch(0, 0, fabric.device))
    trainer = Trainer(
        train_state,
        data,
        sampler,
        RunFolder(out),
        Record(experiment.train.max_skipped),
        reporter,
        main,
    )
    trainer.callbacks.check()
    if main and not resume:  # only now: what can't train leaves nothing behind
        RunFolder.create(out, *resolved(experiment))
    fabric.barrier()
    if resume:
        trainer.load()
    else:
        trainer.note_environment()
    try:
        result = trainer.run()
    except Interrupted:
        leave_together(fabric)
        raise
    leave_together(fabric)
    return result


@define(eq=False)
class Trainer:
    """one run's moving pieces. Only the main process writes and watches."""

    train_state: TrainState
    data: RunData
    sampler: Sampler
    folder: RunFolder
    record: Record
    reporter: ProgressReporter
    main: bool
    best: float | None = None
    ended: bool = False  # by a callback, and all ranks know it
    measured: Measured = field(factory=Measured)
    board: Board | None = None
    callbacks: Callbacks = field(init=False)
    _logged_at: tuple[int, float] = (0, 0.0)

    def __attrs_post_init__(self) -> None:
        self.callbacks = Callbacks.of(
            self.train_state, self.data, self.folder.path, self.reporter, self.main
        )

    def run(self) -> Result:
        if self.over and self.folder.provenance().get("finished"):
            self.reporter.note(f"this run is finished: {self.train_state.step} steps")
            self.measured = Measured(self.folder.provenance().get("validation", {}))
            return self._result()
        if self.train_state.experiment.train.tensorboard and self.main:
            self.board = Board(self.folder.path / "tensorboard", self.train_state.step)
        with _stop_flag() as stop:
            self.callbacks.tell("on_train_start")
            while not self.over:
                self.advance()
                self._between_steps(stop)
            self.callbacks.tell("on_train_end")
            self._report(self.callbacks.taken())
        if self.board:
            with write_errors_as_mtl_error(self.folder.path, self.folder.checkpoint()):
                self.board.close()
        return self._finish()

    @property
    def over(self) -> bool:
        """All steps are done, or a callback ended the run at this one."""
        return self.train_state.step >= self.train_state.steps or self.ended

    def _between_steps(self, stop: threading.Event) -> None:
        """Evaluate, save, hear the callbacks, stop: whatever falls on this step."""
        train_state, train = self.train_state, self.train_state.experiment.train
        epoch, saving = (
            _falls_on(train_state.step, train_state.steps_per_epoch),
            _falls_on(train_state.step, train.save_every),
        )
        due = _falls_on(train_state.step, train.eval_every) or train_state.step == train_state.steps
        if epoch:
            self.callbacks.tell("on_epoch_end")
        if due:
            self._evaluate()
        asked, self.ended = self._agreed(stop.is_set(), heard=epoch or due or saving)
        if self.ended and not due:
            self._evaluate()
        self._report(self.callbacks.taken())
        stopping = asked and not self.over
        if self.over or stopping or saving:
            self._save("last")
        if stopping:
            raise Interrupted(self.folder.path, train_state.step)

    def _agreed(self, stop: bool, heard: bool) -> tuple[bool, bool]:
        """Did somebody ask to stop, did a callback end the run? The same on all ranks.

        They ask each other where the log is written, since the host waits there anyway, and where callbacks were heard.
        """
        train_state, ended = self.train_state, self.callbacks.stopped is not None
        if train_state.fabric.world_size == 1:
            return stop, ended
        heard = heard and bool(train_state.experiment.callbacks)
        if train_state.step % train_state.experiment.train.log_every and not heard:
            return False, False
        asked = torch.tensor([float(stop), float(ended)], device=train_state.fabric.device)
        stop, ended = (total(asked) > 0).tolist()
        return stop, ended

    def advance(self) -> None:
        """One optimizer step: draw, prepare, train, and log where it is time to."""
        train_state = self.train_state
        lr = train_state.lr_at(train_state.step)
        for optimizer in (train_state.optimizer, train_state.loss_weighting_optimizer):
            for group in optimizer.param_groups if optimizer else ():
                group["lr"] = lr
        prepared = [
            self._prepare(micro_batch)
            for micro_batch in range(train_state.experiment.train.accumulate)
        ]
        logged: Logged = train_step(train_state, prepared)
        self.record.add(
            logged, sum(len(x) for i in prepared for x in i.images) * train_state.fabric.world_size
        )
        if (
            train_state.step == train_state.steps
            or train_state.step % train_state.experiment.train.log_every == 0
        ):
            self._log()

    def _prepare(self, micro_batch: int) -> Any:
        train_state, fabric = self.train_state, self.train_state.fabric
        micro_batches = train_state.experiment.train.accumulate
        batch = self.sampler.batch(train_state.step, train_state.micro(micro_batch), fabric.device)
        keyed_rng = train_state.keyed_rng(micro_batch)
        return prepare(
            train_state.experiment,
            batch,
            keyed_rng,
            micro_batches=micro_batches,
            world=fabric.world_size,
            progress=train_state.progress,
        )

    # ------------------------------------------------------------------------------------------------ what it leaves

    def note_environment(self) -> None:
        """What "bit for bit" hangs on, for a run that begins."""
        if self.main:
            self.folder.note(
                environment(self.train_state.experiment, self.data, self.train_state.fabric)
            )

    def _log(self) -> None:
        train_state, before = self.train_state, self.record.wall_s
        means = self.record.flush()
        rate = (train_state.step - self._logged_at[0]) / max(1e-9, self.record.wall_s - before)
        self._logged_at = train_state.step, self.record.wall_s
        if not self.main:
            return
        lr = train_state.lr_at(train_state.step - 1)
        epoch = train_state.step / train_state.steps_per_epoch
        counters = {
            "skipped": self.record.skipped,
            "encoded": self.record.encoded,
            "cpu_s": round(self.record.cpu_s, 2),
        }
        self._write(
            {"step": train_state.step, "epoch": round(epoch, 3), "lr": lr, **means, **counters}
        )
        losses = {k.removeprefix("loss/"): v for k, v in means.items() if k.startswith("loss/")}
        self.reporter.step(
            TrainProgress(
                train_state.step, train_state.steps, losses, lr, rate, self.record.skipped
            )
        )

    def _evaluate(self) -> None:
        rows = self.data.split.get("validation")
        if not self.main or rows is None or not len(rows):
            return
        train_state, device = self.train_state, self.train_state.fabric.device
        net: Any = train_state.ema.copy if train_state.ema else train_state.model.inference()
        supervised = measure(net, train_state.experiment, self.data, rows, device)
        pretexts = measure_pretexts(
            train_state.model, train_state.experiment, self.data, rows, device
        )
        loss = sum(
            e.weight * pretexts.metrics[f"{k}/loss"]
            for k, e in train_state.experiment.pretexts.items()
        )
        own = {} if train_state.experiment.tasks else {"loss": loss}
        found = self.callbacks.evaluated(supervised.metrics | pretexts.metrics | own)
        self.measured = Measured(found, supervised.tables | pretexts.tables, len(rows))
        self.reporter.evaluated(train_state.step, self.measured)
        self._report(found)

    def _report(self, figures: dict[str, float]) -> None:
        """One line of validation figures; where the one that counts is among them, and better, the best checkpoint."""
        if not figures or not self.main:
            return
        self._write(
            {"step": self.train_state.step}
            | {f"validation/{name}": value for name, value in figures.items()}
        )
        name = self.callbacks.best_by
        value, higher = figures.get(name, math.nan), self.callbacks.better[name]
        if not math.isnan(value) and (
            self.best is None or (value > self.best if higher else value < self.best)
        ):
            self.best = value
            self._save("best")

    def _write(self, row: dict[str, Any]) -> None:
        """One line of the log, for all kinds of readers."""
        with write_errors_as_mtl_error(self.folder.path, self.folder.checkpoint()):
            self.folder.log(row)
            if self.board:
                self.board.write(row)
        self.callbacks.tell("on_log", row)

    def _save(self, which: Which) -> None:
        if not self.main:
            return
        train_state, ema = self.train_state, self.train_state.ema
        kept = ema.copy.state_dict() if ema else None
        saved = self.folder.save(
            which, train_state.step, train_state.model.state_dict(), kept, self._state()
        )
        self.callbacks.tell("on_checkpoint", saved.path)

    def _state(self) -> dict[str, Any]:
        """What going on needs beside the weights; `_restore` takes it back."""
        train_state, learned = self.train_state, self.train_state.loss_weighting_optimizer
        return {
            "step": train_state.step,
            "optimizer": train_state.optimizer.optimizer.state_dict(),
            "loss_weighting": train_state.loss_weighting.state_dict(),
            "loss_weighting_optimizer": learned.state_dict() if learned else {},
            "precision": train_state.fabric.strategy.precision.state_dict(),
            "record": self.record.state(),
            "best": self.best,
            "cached_task_weights": train_state.cached_task_weights_state(),
            "callbacks": self.callbacks.state(),
        }

    def load(self) -> None:
        """Everything as the last checkpoint left it; the log is cut back to its step."""
        checkpoint = self.folder.checkpoint("last")
        if checkpoint is None:
            self.reporter.note("no checkpoint was saved yet: starting from step 0")
            if self.main:
                self.folder.cut_log(0)
            self.note_environment()  # it may have been killed before this was written
            return
        train_state = self.train_state
        self._same_ground(self.folder.provenance())
        load_exactly(train_state.model, checkpoint.weights(), str(checkpoint.path))
        ema = checkpoint.ema()
        if train_state.ema and ema is not None:
            load_exactly(train_state.ema.copy, ema, str(checkpoint.path))
        self._restore(checkpoint.state())
        if self.main:
            self.folder.cut_log(train_state.step)
        self.reporter.note(f"going on from step {train_state.step}")

    def _restore(self, state: dict[str, Any]) -> None:
        train_state = self.train_state
        train_state.optimizer.optimizer.load_state_dict(state["optimizer"])
        train_state.loss_weighting.load_state_dict(state["loss_weighting"])
        if train_state.loss_weighting_optimizer:
            train_state.loss_weighting_optimizer.load_state_dict(state["loss_weighting_optimizer"])
        train_state.fabric.strategy.precision.load_state_dict(state["precision"])
        train_state.step, self.best = int(state["step"]), state["best"]
        self.record.load(state["record"])
        train_state.load_cached_task_weights(state["cached_task_weights"])
        self.callbacks.load(state["callbacks"])
        self.ended = self.callbacks.stopped is not None

    def _same_ground(self, provenance: dict[str, Any]) -> None:
        """Other data is another run; other threads only round differently."""
        before, now = provenance.get("data_fingerprint"), self.data.fingerprint
        if before is not None and before != now:
            raise MtlError(
                f"{self.folder.path}: the data has changed since this run began (fingerprint {before}, now {now}): "
                "start a new run, with train.init_from if it shall go on from these weights"
            )
        threads = torch.get_num_threads()
        if provenance.get("threads", threads) != threads:
            self.reporter.note(
                f"this run began with {provenance['threads']} threads and goes on with {threads}: not bit for bit"
            )

    def _finish(self) -> Result:
        record, train_state = self.record, self.train_state
        self.measured = evolve(self.measured, metrics=self.callbacks.figures)
        if self.main:
            self.folder.note(
                {
                    "finished": True,
                    "steps": train_state.step,
                    "cpu_s": round(record.cpu_s, 2),
                    "wall_s": round(record.wall_s, 2),
                    "encoded": record.encoded,
                    "skipped": record.skipped,
                    "validation": self.measured.metrics,
                    **self._told_by_callbacks(),
                }
            )
        return self._result()

    def _told_by_callbacks(self) -> dict[str, Any]:
        callbacks, told = self.callbacks, dict[str, Any]()
        if callbacks.stopped and self.train_state.step < self.train_state.steps:
            by, reason = callbacks.stopped
            told["stopped_early"] = {"by": by, "reason": reason, "of": self.train_state.steps}
        return told | ({"callback_failures": callbacks.failures} if callbacks.failures else {})

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


def _falls_on(step: int, every: int) -> bool:
    """0: never."""
    return every > 0 and step % every == 0


@contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set a flag that is read between steps: no step is left half done. A second Ctrl-C stops at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_number: int, _frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
