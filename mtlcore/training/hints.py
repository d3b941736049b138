"""What a run says before its first step: settings that can work, but hardly as meant."""

from __future__ import annotations

import math

from ..config.experiment import Experiment
from ..data.dataset import RunData
from ..encoders.weights import NONE as NO_WEIGHTS

MOST_INITIAL = 0.05  # the share of the initial weights in the EMA at the end, without a warning


def hints_on(experiment: Experiment, data: RunData, steps: int, best_by: str) -> list[str]:
    """Return a line for each such setting. best_by: the metric that selects the best checkpoint."""
    return [
        *short_for_ema(experiment, steps),
        *frozen_at_random(experiment),
        *never_best(data, best_by),
        *idle_unlabeled_batch(experiment),
    ]


def short_for_ema(experiment: Experiment, steps: int) -> list[str]:
    """A line if the EMA weights would still be close to the initial ones at the end of the run."""
    momentum = experiment.train.ema
    initial = momentum**steps if momentum else 0.0
    if initial <= MOST_INITIAL:
        return []
    # The initial weights get a share of 1 % after `steps`. One digit of 1 - momentum, rounded up.
    fitting = 1 - 0.01 ** (1 / steps)
    digit = 10.0 ** math.floor(math.log10(fitting))
    fitting = math.ceil(fitting / digit) * digit
    return [
        f"train.ema = {momentum}: after {steps} steps, {initial:.0%} of the EMA weights are still "
        f"the initial weights: set train.ema = {1 - fitting:.6g}, or train longer"
    ]


def frozen_at_random(experiment: Experiment) -> list[str]:
    """A line if a frozen part of the encoder has random weights."""
    freeze, train = experiment.freeze, experiment.train
    weights = getattr(experiment.encoder, "weights", NO_WEIGHTS)
    if freeze == "none" or weights != NO_WEIGHTS or train.init_from is not None:
        return []
    shown = f'"{freeze}"' if isinstance(freeze, str) else freeze
    return [
        f"encoder.freeze = {shown}, but the encoder starts from random weights, and frozen parts "
        "never learn: set encoder.weights to a file or a run, or remove encoder.freeze"
    ]


def never_best(data: RunData, best_by: str) -> list[str]:
    """A line if no validation image has a label for the metric that selects the best checkpoint."""
    task = best_by.partition("/")[0]
    indices = data.split.get("validation")
    if indices is None or task not in data.present or data.present[task][indices].any():
        return []
    return [
        f"no validation image has a label of task {task!r}, so {best_by!r} is never measured and "
        "no best checkpoint is saved: set train.best to another metric"
    ]


def idle_unlabeled_batch(experiment: Experiment) -> list[str]:
    """A line if a run without tasks, in which all images are alike, sets `unlabeled_batch`."""
    unlabeled = experiment.input.unlabeled_batch
    if experiment.tasks or unlabeled is None:
        return []
    return [
        f"input.unlabeled_batch = {unlabeled} has no effect without a [task.<label>]: "
        f"each step has input.batch_size = {experiment.input.batch_size} images"
    ]
