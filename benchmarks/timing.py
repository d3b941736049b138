"""Measure variants on a noisy machine.

Variants run alternately in one process. Process-CPU time is compared round by round, so slow phases
of the machine affect both sides of a ratio.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import asdict, frozen

Variant = Callable[[], object]


@frozen
class Row:
    """One line of a suite.

    ratio: our CPU time / the CPU time of the baseline; lower is better.
    low, high: quartiles of the ratio over the rounds.
    gate: the largest ratio that passes on a full run; None only reports.
    goal: the ratio that we aim at.
    """

    name: str
    baseline: str
    ratio: float
    low: float
    high: float
    gate: float | None = None
    goal: float | None = None

    @property
    def missed(self) -> bool:
        return self.gate is not None and self.ratio > self.gate

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def cpu_times(
    variants: Mapping[str, Variant], rounds: int, warm: int = 2, limit_s: float = math.inf
) -> dict[str, list[float]]:
    """Return name -> CPU seconds of each round.

    Every round runs every variant once. The order alternates: what one variant leaves in the caches
    helps each of them equally often.

    warm: rounds before the measured ones.
    limit_s: no round begins later than this many seconds, but there are at least two.
    """
    names = list(variants)
    for _ in range(warm):
        for name in names:
            variants[name]()

    times: dict[str, list[float]] = {name: [] for name in names}
    started = time.monotonic()
    gc.disable()  # a collection would be charged to the variant that happens to trigger it
    try:
        for number in range(rounds):
            if number >= 2 and time.monotonic() - started > limit_s:
                break
            order = names if number % 2 else names[::-1]
            for name in order:
                begin = time.process_time()
                variants[name]()
                times[name].append(time.process_time() - begin)
    finally:
        gc.enable()
    return times


def compare(
    name: str,
    ours: list[float],
    baseline: str,
    rival: list[float],
    gate: float | None = None,
    goal: float | None = None,
) -> Row:
    """Return the row with the median and the quartiles of the ratios of each round."""
    ratios = [a / b for a, b in zip(ours, rival, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return Row(name, baseline, round(ratio, 4), round(low, 4), round(high, 4), gate, goal)
