"""Checks of a pretext's metrics: right answers reach the best, however the samples are cut into batches."""

from __future__ import annotations

import math
from typing import Any

import torch
from attrs import evolve

from ...contracts import Target
from ..kit import Group, Skip, Unproven, require
from ..subject import Drawn
from .harness import PretextSubject, cut
from .loss import STEADY, ideal_answer, of_other_samples

BEST = 1e-3
COARSE = 16  # samples in which a coarse metric must tell other samples' answers from the right ones


METRICS_CHECKS = Group()


@METRICS_CHECKS.check(
    "metrics",
    why="a metric whose best can't be reached, or that grows as answers worsen, picks the wrong checkpoint.",
    mend="set higher_is_better, and the best as torchmetrics does: plot_upper_bound = 1.0 (plot_lower_bound = 0.0 of an error)"
    " on the metric's class; compare what update() reads with `ideal`: is an axis or the argmax wrong?",
    needs="truth_loses_least",
    shows=True,
)
def perfect_answers_reach_the_best(subject: PretextSubject, drawn: Drawn) -> None:
    """`ideal(target)` reaches each metric's declared bound; where none is declared, other samples' answers never beat it."""
    drawn = evolve(
        drawn, samples=COARSE
    )  # of few samples, a coarse metric may find other samples' answers as right
    asked = subject.ask(drawn)
    if not subject.component.metrics():
        raise Skip("it has no metrics")
    ideal = ideal_answer(subject, asked)
    wrong = of_other_samples(subject.component, asked.target, COARSE)
    for name, metric in subject.component.metrics().items():
        higher = metric.higher_is_better
        require(higher is not None, f"{name} does not say whether higher_is_better")
        best = getattr(metric, "plot_upper_bound" if higher else "plot_lower_bound", None)
        found = _measured(metric, [(ideal, asked.target)])
        if best is not None:
            require(
                abs(found - best) < BEST,
                f"{name} of the perfect answer is {found:.4g}; its best is {best:g}",
            )
            continue
        other = _measured(subject.component.metrics()[name], [(ideal, wrong)])
        require(
            found >= other if higher else found <= other,
            f"{name}: right {found:.4g}, wrong {other:.4g}",
        )
        if found == other:
            raise Unproven(f"{name} is {found:.4g} of right answers and of other samples'")


@METRICS_CHECKS.check(
    "metrics",
    why="evaluation would depend on the batch size: two runs can't be compared.",
    mend="keep sums and counts as states (add_state(..., 'sum')), divide in compute().",
    needs=STEADY,
)
def metrics_do_not_depend_on_batches(subject: PretextSubject, drawn: Drawn) -> None:
    """Each metric is the same for one batch and for any split of it."""
    if not subject.component.metrics():
        raise Skip("it has no metrics")
    asked, model = subject.ask(drawn), subject.model(drawn.size)
    with torch.no_grad():
        output = subject.forward_heads(model, asked)
    first, rest = slice(1), slice(1, None)
    pairs = [(cut(output, p), cut(asked.target, p)) for p in (first, rest)]
    for name, metric in subject.component.metrics().items():
        whole, split = (
            _measured(m, updates)
            for m, updates in (
                (metric, [(output, asked.target)]),
                (subject.component.metrics()[name], pairs),
            )
        )
        held = abs(whole - split) <= BEST * max(1, abs(whole)) or (
            math.isnan(whole) and math.isnan(split)
        )
        require(held, f"{name} is {whole:.6g} in one batch and {split:.6g} in two")


def _measured(metric: Any, updates: list[tuple[Any, Target]]) -> float:
    for output, target in updates:
        metric.update(output, target)
    return float(metric.compute())
