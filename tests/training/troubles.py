"""A plugin for the tests of how a run begins and ends: components that fail at a chosen moment."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from attrs import frozen
from dots import Dots
from torch import nn
from torchmetrics import MeanMetric

from mtlcore import Callback, Classification, Head, PretextTask, hookimpl


class Fragile(MeanMetric):
    """Raises while the variable BROKEN_METRIC is set; its value is NaN while NAN_METRIC is."""

    higher_is_better = True

    def update(self, prediction, target):
        super().update((prediction.argmax(-1) == target).float())

    def compute(self):
        if os.environ.get("BROKEN_METRIC"):
            raise ZeroDivisionError("no luck today")
        value = super().compute()
        return value * float("nan") if os.environ.get("NAN_METRIC") else value


@frozen
class Fragiles(Classification):
    """A classification with one more metric, `luck`."""

    def metrics(self):
        return {**super().metrics(), "luck": Fragile()}


@frozen
class Trains(PretextTask):
    """Its head or loss works in evaluation, and fails in training on a batch of one.

    how: "norm" for BatchNorm, "pairs" for a loss that needs two samples.
    """

    how: str = "norm"

    def views(self, batch, rng):
        return [batch.clean], torch.ones(len(batch.clean.images))

    def build(self, context):
        return Line(context.info.dim, self.how)


class Line(Head):
    def __init__(self, dim, how):
        super().__init__()
        self.how = how
        norm = nn.BatchNorm1d(dim) if how == "norm" else nn.Identity()
        self.answer = nn.Sequential(norm, nn.Linear(dim, 1))

    def forward(self, features):
        return self.answer(features.pooled)[:, 0]

    def loss(self, output, target):
        if self.training and self.how == "pairs" and len(output) < 2:
            raise ValueError("a loss of pairs needs two samples")
        return (output - target) ** 2


@frozen
class Counted(Dots):
    """Dots that add one byte to a file for each image that is decoded."""

    log: str = ""

    def decode(self, index, sample):
        with Path(self.log).open("ab") as file:
            file.write(b".")
        return super().decode(index, sample)


@frozen
class Ending(Callback):
    """At the log line of a step: sends a signal to its own process, or stops the run."""

    step: int = 4
    signal: int = 0

    def on_log(self, run, row):
        mark = run.folder / "done_once"
        if row["step"] == self.step and not mark.exists():
            mark.touch()
            if self.signal:
                os.kill(os.getpid(), self.signal)
            else:
                run.stop("enough")


@frozen
class Epochs(Callback):
    """Counts the ends of epochs, and ends the run at the first one."""

    def figures(self, experiment):
        return {"ended": True}

    def on_epoch_end(self, run):
        run.state["ended"] = run.state.get("ended", 0) + 1
        run.add({"ended": run.state["ended"]})
        run.stop("enough")


@hookimpl
def mtl_components():
    return [Counted, Ending, Epochs, Fragiles, Trains]
