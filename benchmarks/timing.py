"""Measuring on noisy machines: variants interleaved in one process, process CPU time, ratios of neighbors in time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import asdict, frozen

Variant = Callable[[], object]


@frozen
class Row:
    """One line of a suite. ratio = our CPU time / the rival's, lower is better; low, high: quartiles over the rounds.

    gate: the largest ratio that passes, on the full run. goal: what would delight. None: reported only.
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
    variants: Mapping[str, Variant], rounds: int, warm: int = 2
) -> dict[str, list[float]]:
    """name -> CPU seconds of each round. Every round runs every variant once, in alternating order."""
    names = list(variants)
    for _ in range(warm):
        for name in names:
            variants[name]()
    times: dict[str, list[float]] = {name: [] for name in names}
    gc.disable()
    try:
        for number in range(rounds):
            for name in names if number % 2 else reversed(names):
                begun = time.process_time()
                variants[name]()
                times[name].append(time.process_time() - begun)
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
    """The median of the ratios of each round, with quartiles."""
    ratios = [a / b for a, b in zip(ours, rival, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    return Row(name, baseline, round(ratio, 4), round(low, 4), round(high, 4), gate, goal)
