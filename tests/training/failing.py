"""A plugin of pretexts for the tests: one raises, the loss of the other is not finite."""

from __future__ import annotations

import torch
from attrs import frozen
from torch import nn

from mtlcore import Head, PretextTask, hookimpl


@frozen
class Raises(PretextTask):
    """Raises in the second half of the run."""

    def views(self, batch, rng):
        if batch.progress > 0.5:
            raise ZeroDivisionError("a bug of a plugin")
        return [batch.clean], torch.zeros(len(batch.clean.images))

    def build(self, context):
        return Line(context.info.dim)


@frozen
class Nan(PretextTask):
    """Gives a NaN loss at each `every`-th of 24 steps."""

    every: int = 1

    def views(self, batch, rng):
        bad = round(batch.progress * 24) % self.every == 0
        value = float("nan") if bad else 1.0
        return [batch.clean], torch.full((len(batch.clean.images),), value)

    def build(self, context):
        return Line(context.info.dim)


class Line(Head):
    def __init__(self, dim):
        super().__init__()
        self.answer = nn.Linear(dim, 1)

    def forward(self, features):
        return self.answer(features.pooled)[:, 0]

    def loss(self, output, target):
        return (output - target) ** 2


@hookimpl
def mtl_components():
    return [Nan, Raises]
