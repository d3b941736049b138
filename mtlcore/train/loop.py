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
from attrs import define, field, frozen

from ..data.dataset import Dataset, open_data
from ..data.sampler import Sampler
from ..errors import MtlError
from ..experiment import Experiment
from ..measure import Measured, main_metric, measure, measure_pretexts
from ..networks import total
from ..runs import RunFolder, Which, said
from ..views import prepare
from .build import build_engine, dry_run, load_exactly
from .devices import fabric_for, leave_together
from .facts import environment, resolved
from .memory import keep_freed_memory
from .optim import lr_at
from .record import Record
from .step import Engine, Logged, train_step
from .tensorboard import Board
from .watch import Moment, Silent, Watcher


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


def train(experiment: Experiment, out: Path, *, resume: bool = False, watcher: Watcher | None = None) -> Result:
    """Train an experiment into the folder `out`, or go on with the run that lies there.

    Raises MtlError for what a user can mend, Interrupted after Ctrl-C or SIGTERM (with the run saved).
    """
    keep_freed_memory()
    fabric = fabric_for(experiment)
    main = fabric.is_global_zero
    if not resume:
        RunFolder.refuse_existing(out)  # on every rank, and before any picture is read
    fabric.barrier()
    watch: Watcher = watcher if watcher is not None and main else Silent()
    data = open_data(experiment, {"train", "validation"}, watch.progress)  # test is for `mtl eval` alone
    for line in data.report:
        watch.note(line)
    experiment = data.experiment
    sampler = Sampler(data, experiment, fabric.world_size)
    steps = experiment.train.steps or math.ceil((experiment.train.epochs or 1) * sampler.steps_per_epoch)
    main_metric(experiment)
    engine = build_engine(experiment, fabric, steps, sampler.steps_per_epoch, resume)
    dry_run(engine, sampler.batch(0, 0, fabric.device))
    folder = _folder(experiment, out, resume, main)  # only now: what can't train leaves nothing behind
    fabric.barrier()
    loop = Loop(engine, data, sampler, folder, Record(experiment.train.max_skipped), watch, main)
    if resume:
        loop.load()
    elif main:
        folder.note(environment(experiment, data, fabric))
    try:
        result = loop.run()
    except Interrupted:
        leave_together(fabric)
        raise
    leave_together(fabric)
    return result


def _folder(experiment: Experiment, out: Path, resume: bool, main: bool) -> RunFolder:
    if resume or not main:
        return RunFolder(out)
    text, plugins = resolved(experiment)
    return RunFolder.create(out, text, plugins)


@define(eq=False)
class Loop:
    """One run's moving parts. Only the main process writes and watches."""

    engine: Engine
    data: Dataset
    sampler: Sampler
    folder: RunFolder
    record: Record
    watch: Watcher
    main: bool
    best: float | None = None
    measured: Measured = field(factory=Measured)
    _logged_at: tuple[int, float] = (0, 0.0)

    def run(self) -> Result:
        engine, train = self.engine, self.engine.experiment.train
        if engine.step >= engine.steps:
            self.watch.note(f"this run is finished: {engine.step} steps")
            self.measured = Measured(self.folder.facts().get("validation", {}))
            return self._result()
        board = Board(self.folder.path / "tensorboard", engine.step) if train.tensorboard and self.main else None
        with _stop_flag() as stop:
            while engine.step < engine.steps:
                self.advance(board)
                done = engine.step == engine.steps
                if done or (train.eval_every and engine.step % train.eval_every == 0):
                    self._evaluate(board)
                stopping = not done and self._agreed(stop.is_set())
                if done or stopping or engine.step % train.save_every == 0:
                    self._save("last")
                if stopping:
                    raise Interrupted(self.folder.path, engine.step)
        if board:
            with said(self.folder.path, self.folder.checkpoint()):
                board.close()
        return self._finish()

    def _agreed(self, stop: bool) -> bool:
        """Ranks stop at the same step: they ask each other where the log is written, since the host waits there anyway."""
        engine = self.engine
        if engine.fabric.world_size == 1:
            return stop
        if engine.step % engine.experiment.train.log_every:
            return False
        asked = torch.tensor(float(stop), device=engine.fabric.device)
        return bool(total(asked) > 0)

    def advance(self, board: Board | None = None) -> None:
        """One optimiser step: draw, prepare, train, and log where it is time to."""
        engine = self.engine
        lr = lr_at(engine.experiment.train, engine.step, engine.steps)
        for optimizer in (engine.optimizer, engine.weigher_optimizer):
            for group in optimizer.param_groups if optimizer else ():
                group["lr"] = lr
        inputs = [self._inputs(part) for part in range(engine.experiment.train.accumulate)]
        logged: Logged = train_step(engine, inputs)
        self.record.add(logged, sum(len(x) for i in inputs for x in i.images) * engine.fabric.world_size)
        if engine.step == engine.steps or engine.step % engine.experiment.train.log_every == 0:
            self._log(board)

    def _inputs(self, part: int) -> Any:
        engine, fabric = self.engine, self.engine.fabric
        parts = engine.experiment.train.accumulate
        batch = self.sampler.batch(engine.step, engine.micro(part), fabric.device)
        streams = engine.streams(part)
        return prepare(
            engine.experiment, batch, streams, parts=parts, world=fabric.world_size, progress=engine.progress
        )

    # ------------------------------------------------------------------------------------------------ what it leaves

    def _log(self, board: Board | None) -> None:
        engine, before = self.engine, self.record.wall_s
        means = self.record.flush()
        rate = (engine.step - self._logged_at[0]) / max(1e-9, self.record.wall_s - before)
        self._logged_at = engine.step, self.record.wall_s
        if not self.main:
            return
        lr = lr_at(engine.experiment.train, engine.step - 1, engine.steps)
        epoch = engine.step / engine.steps_per_epoch
        counters = {
            "skipped": self.record.skipped,
            "encoded": self.record.encoded,
            "cpu_s": round(self.record.cpu_s, 2),
        }
        self._write({"step": engine.step, "epoch": round(epoch, 3), "lr": lr, **means, **counters}, board)
        losses = {k.removeprefix("loss/"): v for k, v in means.items() if k.startswith("loss/")}
        self.watch.step(Moment(engine.step, engine.steps, losses, lr, rate, self.record.skipped))

    def _evaluate(self, board: Board | None) -> None:
        rows = self.data.split.get("validation")
        if not self.main or rows is None or not len(rows):
            return
        engine, device = self.engine, self.engine.fabric.device
        net: Any = engine.averaged.copy if engine.averaged else engine.model.inference()
        supervised = measure(net, engine.experiment, self.data, rows, device)
        pretexts = measure_pretexts(engine.model, engine.experiment, self.data, rows, device)
        loss = sum(e.weight * pretexts.metrics[f"{k}/loss"] for k, e in engine.experiment.pretexts.items())
        own = {} if engine.experiment.tasks else {"loss": loss}
        metrics = supervised.metrics | pretexts.metrics | own
        self.measured = Measured(metrics, supervised.tables | pretexts.tables, len(rows))
        self._write({"step": engine.step} | {f"validation/{k}": v for k, v in metrics.items()}, board)
        self.watch.evaluated(engine.step, self.measured)
        name, higher = main_metric(engine.experiment)
        value = metrics.get(name, math.nan)
        if not math.isnan(value) and (self.best is None or (value > self.best if higher else value < self.best)):
            self.best = value
            self._save("best")

    def _write(self, row: dict[str, Any], board: Board | None) -> None:
        """One line of the log, for both kinds of readers."""
        with said(self.folder.path, self.folder.checkpoint()):
            self.folder.log(row)
            if board:
                board.write(row)

    def _save(self, which: Which) -> None:
        if not self.main:
            return
        engine, averaged = self.engine, self.engine.averaged
        scaler = engine.fabric.strategy.precision.state_dict()
        learned = engine.weigher_optimizer
        state: dict[str, Any] = {
            "step": engine.step,
            "optimizer": engine.optimizer.optimizer.state_dict(),
            "weigher": engine.weigher.state_dict(),
            "weigher_optimizer": learned.state_dict() if learned else {},
            "precision": scaler,
            "record": self.record.state(),
            "best": self.best,
        }
        kept = averaged.copy.state_dict() if averaged else None
        self.folder.save(which, engine.step, engine.model.state_dict(), kept, state)

    def load(self) -> None:
        """Everything as the last checkpoint left it; the log is cut back to its step."""
        checkpoint = self.folder.checkpoint("last")
        if checkpoint is None:
            self.watch.note("no checkpoint was saved yet: starting from step 0")
            self.folder.cut_log(0)
            return
        engine, state = self.engine, checkpoint.state()
        self._same_ground(self.folder.facts())
        load_exactly(engine.model, checkpoint.weights(), str(checkpoint.path))
        averaged = checkpoint.averaged()
        if engine.averaged and averaged is not None:
            load_exactly(engine.averaged.copy, averaged, str(checkpoint.path))
        engine.optimizer.optimizer.load_state_dict(state["optimizer"])
        engine.weigher.load_state_dict(state["weigher"])
        if engine.weigher_optimizer:
            engine.weigher_optimizer.load_state_dict(state["weigher_optimizer"])
        engine.fabric.strategy.precision.load_state_dict(state["precision"])
        engine.step, self.best = int(state["step"]), state["best"]
        self.record.load(state["record"])
        if self.main:
            self.folder.cut_log(engine.step)
        self.watch.note(f"going on from step {engine.step}")

    def _same_ground(self, facts: dict[str, Any]) -> None:
        """Other data is another run; other threads only round differently."""
        before, now = facts.get("data_fingerprint"), self.data.fingerprint
        if before is not None and before != now:
            raise MtlError(
                f"{self.folder.path}: the data has changed since this run began (fingerprint {before}, now {now}): "
                "start a new run, with train.init_from if it shall go on from these weights"
            )
        threads = torch.get_num_threads()
        if facts.get("threads", threads) != threads:
            self.watch.note(
                f"this run began with {facts['threads']} threads and goes on with {threads}: not bit for bit"
            )

    def _finish(self) -> Result:
        record, engine = self.record, self.engine
        if self.main:
            self.folder.note(
                {
                    "finished": True,
                    "steps": engine.step,
                    "cpu_s": round(record.cpu_s, 2),
                    "wall_s": round(record.wall_s, 2),
                    "encoded": record.encoded,
                    "skipped": record.skipped,
                    "validation": self.measured.metrics,
                }
            )
        return self._result()

    def _result(self) -> Result:
        record = self.record
        return Result(self.folder.path, self.engine.step, self.measured, record.cpu_s, record.encoded, record.skipped)


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
