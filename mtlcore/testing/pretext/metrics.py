"""Checks of a pretext's metrics: ideal outputs reach the best value, and batches do not matter."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from ...contracts import Target
from ..kit import Group
from ..requirements import Skip, Unproven, require
from ..subject import Drawn
from ..trees import cut, equal, map_floats, same_values
from .harness import PretextSubject, measured
from .loss import LOWEST, STEADY, ideal_output, of_other_samples

TOLERANCE = 1e-3
NOISE = 10.0  # standard deviation
SAMPLES = 16  # few samples may get the same coarse metric from right and wrong outputs

METRICS_CHECKS = Group()


@METRICS_CHECKS.check(
    "metrics",
    why="a metric that is the same for every output measures nothing.",
    mend="Does update() read its output? Does compute() return what update() has added up?",
    needs=STEADY,
    must_prove=True,
)
def metrics_depend_on_the_output(subject: PretextSubject, drawn: Drawn) -> None:
    """Outputs of noise, or ideal ones, change the value of each metric."""
    if not subject.component.metrics():
        raise Skip("it has no metrics")
    batch, model = subject.batch(evolve(drawn, samples=SAMPLES)), subject.model(drawn.size)
    with torch.no_grad():
        output = subject.output(model, batch)
    rng = drawn.rng("noise")
    outputs = [output, map_floats(lambda x: NOISE * rng.randn(*x.shape).to(x), output)]
    # Of a thousand classes, neither of these hits one.
    with contextlib.suppress(Skip):
        outputs.append(ideal_output(subject, batch))
    for name in subject.component.metrics():
        first, *others = [_measured(subject, name, [(x, batch.target)]) for x in outputs]
        if all(same_values(first, other) for other in others):
            raise Unproven(f"{name} is {_shown(first)} for all of {len(outputs)} outputs")


@METRICS_CHECKS.check(
    "metrics",
    why="a metric with an unreachable best value, or the wrong direction, selects the wrong "
    "checkpoint.",
    mend="Set higher_is_better, and the best value on the metric's class as torchmetrics does: "
    "plot_upper_bound = 1.0, or plot_lower_bound = 0.0 for an error. Compare what update() reads "
    "with `ideal`: is an axis or the argmax wrong?",
    needs=("metrics_depend_on_the_output", LOWEST),
    must_prove=True,
)
def ideal_outputs_reach_the_best_metric(subject: PretextSubject, drawn: Drawn) -> None:
    """`ideal(target)` reaches each metric's bound, and scores better than with wrong targets.

    Matrices, such as a table of confusions, have no best value.
    """
    batch = subject.batch(evolve(drawn, samples=SAMPLES))
    if not subject.component.metrics():
        raise Skip("it has no metrics")
    ideal = ideal_output(subject, batch)
    wrong = of_other_samples(subject.component, batch.target, SAMPLES)
    if equal(wrong, batch.target):
        raise Skip("permuting its targets does not change them")

    ties = []
    for name, metric in subject.component.metrics().items():
        value = _measured(subject, name, [(ideal, batch.target)])
        if value.ndim:
            continue
        found, higher = float(value), metric.higher_is_better
        require(higher is not None, f"{name} does not define higher_is_better")
        require(not math.isnan(found), f"{name} of the ideal output is NaN")
        bound = "plot_upper_bound" if higher else "plot_lower_bound"
        best = getattr(metric, bound, None)
        reached = best is None or abs(found - best) < TOLERANCE
        require(reached, f"{name} of the ideal output is {found:.4g}; its best is {best}")

        other = float(_measured(subject, name, [(ideal, wrong)]))
        no_worse = found >= other if higher else found <= other
        require(no_worse, f"{name}: {found:.4g} with the truth, {other:.4g} with wrong targets")
        if found == other:
            ties.append(f"{name} is {found:.4g}")
    if ties:
        raise Unproven(f"with the truth and with wrong targets, {', '.join(ties)}")


@METRICS_CHECKS.check(
    "metrics",
    why="otherwise evaluation depends on the batch size, and runs cannot be compared.",
    mend="Use sums and counts as states (add_state(..., 'sum')), and divide in compute().",
    needs=STEADY,
)
def metrics_do_not_depend_on_batches(subject: PretextSubject, drawn: Drawn) -> None:
    """Each metric is the same for one batch and for the batch split in two."""
    if not subject.component.metrics():
        raise Skip("it has no metrics")
    # Of two equal parts, a mean of means would be right: the second part is larger.
    drawn = evolve(drawn, samples=drawn.samples + 1)
    batch, model = subject.batch(drawn), subject.model(drawn.size)
    with torch.no_grad():
        output = subject.output(model, batch)
    parts = [(cut(output, s), cut(batch.target, s)) for s in (slice(1), slice(1, None))]

    for name in subject.component.metrics():
        whole = _measured(subject, name, [(output, batch.target)])
        split = _measured(subject, name, parts)
        difference = (whole - split).abs()
        near = (difference <= TOLERANCE * whole.abs().clamp_min(1)) | (whole == split)
        both_nan = whole.isnan() & split.isnan()
        found = f"{name} is {_shown(whole)} in one batch, {_shown(split)} in two"
        require(bool((near | both_nan).all()), found)


def _measured(subject: PretextSubject, name: str, updates: list[tuple[Any, Target]]) -> Tensor:
    """The value of a new metric after these updates: a scalar, or a matrix."""
    return measured(subject.component.metrics()[name], updates)


def _shown(value: Tensor) -> str:
    return str(value.tolist()) if value.ndim else f"{float(value):.6g}"
