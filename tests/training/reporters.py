"""A plugin of callbacks for the tests: one uses the whole API, others do what they must not."""

from __future__ import annotations

import json
import os
import random
import signal
import threading

import numpy as np
import torch
from attrs import frozen

from mtlcore import Callback, MtlError, hookimpl


@frozen
class Diary(Callback):
    """Writes every event into RUN/diary.jsonl, adds metrics, and counts events in its state."""

    stop_at: int = 0

    def figures(self, experiment):
        return {"score": True}

    def _write(self, run, event, **more):
        run.state[event] = run.state.get(event, 0) + 1
        entry = {"event": event, "step": run.step, "epoch": run.epoch, **more}
        with (run.folder / "diary.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def on_train_start(self, run):
        self._write(run, "start")

    def on_log(self, run, row):
        self._write(run, "log", row=row)

    def on_epoch_end(self, run):
        run.add({"score": -abs(run.step - 12)})
        self._write(run, "epoch")

    def on_validation_end(self, run):
        run.add({"seen": run.state.get("evaluation", 0)})
        self._write(run, "evaluation", metrics=dict(run.validation))

    def on_checkpoint(self, run, checkpoint):
        self._write(run, "checkpoint", name=checkpoint.name, there=checkpoint.is_dir())

    def on_train_end(self, run):
        self._write(run, "end")


@frozen
class Journal(Callback):
    """Writes the name of each event into RUN/<file>. It fails, or gets a signal, where it is told.

    fails_in, refuses_in: the event in which it raises an OSError or an MtlError.
    refuses_at, signal_at: step of a line of the log at which it does so, once.
    """

    file: str = "journal.jsonl"
    fails_in: str = ""
    refuses_in: str = ""
    refuses_at: int = 0
    signal_at: int = 0

    def _write(self, run, event, **more):
        with (run.folder / self.file).open("a") as file:
            file.write(json.dumps({"event": event, "step": run.step, **more}) + "\n")
        if event == self.fails_in:
            raise OSError("connection lost")
        if event == self.refuses_in:
            raise MtlError("not with me")

    def on_train_start(self, run):
        assert run.handles == {}
        run.handles["lock"] = threading.Lock()  # no checkpoint could hold it
        self._write(run, "on_train_start")

    def on_log(self, run, row):
        self._write(run, "on_log")
        mark = run.folder / "done_once"
        if row["step"] in (self.refuses_at, self.signal_at) and not mark.exists():
            mark.touch()
            if self.refuses_at:
                raise MtlError("not with me")
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch_end(self, run):
        self._write(run, "on_epoch_end")

    def on_validation_end(self, run):
        self._write(run, "on_validation_end", tables=dict(run.tables))

    def on_checkpoint(self, run, checkpoint):
        self._write(run, "on_checkpoint", name=checkpoint.name)

    def on_train_end(self, run):
        self._write(run, "on_train_end", tables=dict(run.tables))

    def on_exception(self, run, error):
        self._write(run, "on_exception", error=type(error).__name__)

    def teardown(self, run):
        self._write(run, "teardown", handles=sorted(run.handles))


@frozen
class Blind(Callback):
    """Says that it does not read the network, and may do it all the same."""

    reads_network = False
    what: str = "network"

    def on_epoch_end(self, run):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        if self.what == "network":
            assert run.network
        if self.what == "features":
            run.features(run.indices("train"))


@frozen
class Quitter(Callback):
    """Stops the run at the end of an epoch."""

    epoch: int = 1

    def on_epoch_end(self, run):
        if run.epoch >= self.epoch:
            run.stop(f"{run.epoch} epochs are enough")


@frozen
class Late(Callback):
    """Adds a metric at the end of the run: the lower, the later."""

    def figures(self, experiment):
        return {"score": True}

    def on_train_end(self, run):
        run.add({"score": 1 / run.step})


@frozen
class Planned(Callback):
    """A score that rises until the end of a run of 10 steps, and falls after step 2 of others."""

    reads_network = False

    def figures(self, experiment):
        return {"score": True}

    def on_validation_end(self, run):
        rises = run.steps == 10 or run.step == 2
        run.add({"score": run.step if rises else -run.step})


@frozen
class Killer(Callback):
    """Kills its process at a step, once: a resumed run passes that step."""

    step: int

    def on_log(self, run, row):
        mark = run.folder / "killed"
        if row["step"] >= self.step and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@frozen
class Vandal(Callback):
    """Disturbs whatever it can reach."""

    how: str = "all"

    def check(self, run):
        if self.how == "check":
            raise MtlError("this run is not for me")

    def on_epoch_end(self, run):
        if self.how == "all":
            torch.manual_seed(1), np.random.seed(1), random.seed(1)
            run.network.train()
            torch.set_grad_enabled(True)
            indices = run.indices("train")[:4]
            run.network.eval()
            run.network.encoder(torch.rand(len(indices), 3, 16, 16)).pooled.sum().backward()
            run.network.train()
        if self.how == "weights":
            next(run.network.parameters()).mul_(1.5)
        if self.how == "data":  # a write that no version counter notices
            next(iter(run.network.parameters())).data.mul_(0.5)
        if self.how == "statistics":
            run.network.train()(torch.rand(4, 3, 16, 16))
        if self.how == "raise":
            raise ConnectionError("no route to host")
        if self.how == "state":
            run.state["kept"] = np.float64(1)
        if self.how == "refuse":
            raise MtlError("enough of this")


@hookimpl
def mtl_components():
    return [Blind, Diary, Journal, Killer, Late, Planned, Quitter, Vandal]
