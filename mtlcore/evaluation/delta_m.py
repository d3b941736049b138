"""The multi-task figure of the literature: how much better a run is than single-task runs.

Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, arXiv:1904.08918, section
4.1: the mean over the tasks of the relative change of their metrics. Metrics of which lower values
are better count with the opposite sign. 0.05 means 5 % better on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from ..errors import MtlError
from .evaluate import Evaluation


@frozen
class Change:
    """One metric of a run and of the run that it is compared with.

    metric: "<task>/<name>". gain: the relative change; above 0 is better.
    """

    metric: str
    value: float
    against: float
    gain: float


@frozen
class DeltaM:
    """A run against single-task runs.

    delta_m: the mean over the tasks of the gain of their main (first) metric.
    delta_m_all: the mean over the tasks of the mean gain of all their metrics, as LibMTL reports.
    changes: of each metric. runs: task label -> the run that it is compared with.
    """

    delta_m: float
    delta_m_all: float
    changes: tuple[Change, ...]
    runs: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """Return a part of what `mtl eval --json` prints."""
        return {
            "delta_m": self.delta_m,
            "delta_m_all": self.delta_m_all,
            "gains": {change.metric: change.gain for change in self.changes},
            "runs": dict(self.runs),
        }


def delta_m(
    run: Evaluation, against: Sequence[Evaluation], higher_is_better: Mapping[str, bool]
) -> DeltaM:
    """Compare a run with others, of which each has some of its tasks.

    against: evaluated on the same split. higher_is_better: "<task>/<metric>" of the run -> its
    direction, the main metric of each task first.

    Raises MtlError if a task is in none of the other runs or in several of them, if the runs were
    evaluated on other data, or if a metric has no relative change (it is 0 in the other run).
    """
    changes: list[Change] = []
    runs: dict[str, str] = {}
    mains: list[float] = []
    means: list[float] = []
    for label in run.n:
        other = _with_task(label, run, against)
        runs[label] = other.run
        names = [name for name in higher_is_better if name.partition("/")[0] == label]
        gains: list[float] = []
        for name in names:
            if name in run.metrics and name in other.metrics:
                change = _change(name, run, other, higher_is_better[name])
                changes.append(change)
                gains.append(change.gain)
        if not gains:
            raise MtlError(f"task {label!r} has no metric in both {run.run} and {other.run}")
        mains.append(gains[0])
        means.append(sum(gains) / len(gains))
    n = len(runs)
    return DeltaM(sum(mains) / n, sum(means) / n, tuple(changes), runs)


def _with_task(label: str, run: Evaluation, against: Sequence[Evaluation]) -> Evaluation:
    """Return the one other run that has this task, evaluated on the same data."""
    having = [other for other in against if label in other.n]
    if len(having) != 1:
        found = ", ".join(other.run for other in having) or "none"
        raise MtlError(
            f"--against: expected one run with the task {label!r}, found {found}; "
            "name one single-task run for each task of the run"
        )
    other = having[0]
    if (run.data, run.split, run.n[label]) != (other.data, other.split, other.n[label]):
        raise MtlError(
            f"--against {other.run}: it has {other.n[label]} samples of {label!r} in "
            f"{other.data}/{other.split}, {run.run} has {run.n[label]} in {run.data}/{run.split}; "
            "expected the same data"
        )
    return other


def _change(name: str, run: Evaluation, other: Evaluation, higher: bool) -> Change:
    value, before = run.metrics[name], other.metrics[name]
    if before == 0:
        raise MtlError(
            f"--against {other.run}: {name} is 0 there, so there is no relative change; "
            "compare with another run"
        )
    gain = (value - before) / abs(before)
    return Change(name, value, before, gain if higher else -gain)
