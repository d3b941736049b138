"""A learning-rate range test: the loss of real training steps while the learning rate grows.

Smith 2017, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186.
"""

from __future__ import annotations

import math

import numpy as np
from attrs import evolve, frozen

from ..config.experiment import Experiment
from ..errors import MtlError
from .trainer import Trainer

WIDTH = 0.05  # of the Gaussian that smooths the losses, as a share of the steps
DIVERGED = 4.0  # times the first loss, which ends the test


@frozen
class RangeTest:
    """lrs: n learning rates. losses: n smoothed losses. lr: where the loss falls fastest."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    lr: float


def range_test(experiment: Experiment, low: float, high: float, steps: int) -> RangeTest:
    """Take `steps` steps, each with a higher learning rate: from `low` to `high`, in equal ratios.

    The loss is the sum of all losses with the weights of the configuration. A step without labels
    of a task counts the last loss of that task. The test ends where the loss diverges. Nothing is
    written. Raises MtlError if the loss does not fall.
    """
    train = evolve(experiment.train, steps=steps, epochs=None)
    trainer = Trainer(evolve(experiment, train=train))
    lrs, losses, latest = list[float](), list[float](), dict[str, float]()
    for lr in np.geomspace(low, high, steps).tolist():
        trainer.lr = lr
        new = {k: experiment.entries[k].weight * float(x) for k, x in trainer.step().items()}
        if not new.keys() <= latest.keys():
            # The first loss of a task would look like a jump: the sum starts anew.
            lrs, losses = [], []
        latest |= new
        loss = sum(latest.values())
        if not losses and not math.isfinite(loss):
            raise MtlError(f"the loss of the first step is {loss}: check the data and the losses")
        if not math.isfinite(loss) or _has_diverged(loss, losses):
            break
        lrs.append(lr)
        losses.append(loss)
    smoothed = _smoothed(losses, WIDTH * steps)
    until = int(smoothed.argmin()) + 1  # what follows the lowest loss is no guide
    slopes = np.gradient(smoothed[:until], np.log(lrs[:until])) if until > 2 else np.zeros(1)
    if slopes.min() >= 0:
        given = f"from --low {low:g} to --high {high:g}"
        raise MtlError(f"the loss does not fall {given}: set a lower --low, or more --steps")
    return RangeTest(tuple(lrs), tuple(smoothed.tolist()), lrs[int(slopes.argmin())])


def _has_diverged(loss: float, losses: list[float]) -> bool:
    first = losses[0] if losses else loss
    return loss > first + (DIVERGED - 1) * abs(first)  # some losses are negative


def _smoothed(losses: list[float], width: float) -> np.ndarray:
    """Average each loss with its neighbors, (n,). width: in steps."""
    at = np.arange(len(losses)) / width
    weights = np.exp(-0.5 * (at - at[:, None]) ** 2)
    return np.asarray(weights @ losses / weights.sum(1))
