"""The metrics of runs that exist: from run.json, or from the test split, which is read once.

`test_record` measures the test metrics, and records each reading.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from ..errors import MtlError, first_few, nearest
from ..evaluation.best import LOSS, directions
from ..evaluation.evaluate import Progress
from ..files import in_shell
from ..runs import RunFolder
from .arms_of_runs import Arm
from .run_settings import RunRecord
from .test_record import read_test_metrics, record_of

Metrics = Mapping[str, float]


@frozen
class MetricsOfRuns:
    """The metrics of each finished run, by its folder.

    notes: which runs have none, and whether the test split was read before.
    """

    by_run: Mapping[Path, Metrics]
    notes: tuple[str, ...]


def metrics_of_runs(arms: Sequence[Arm], split: str, progress: Progress | None) -> MetricsOfRuns:
    """Return the metrics of all finished runs on a split, at the last step."""
    runs = [run for arm in arms for run in arm.runs.values()]
    finished = [run for run in runs if run.finished]
    notes = [_no_result(run) for run in runs if not run.finished]
    if split == "validation":
        found = {run.path: run.provenance.get("validation") or {} for run in finished}
        return MetricsOfRuns(found, tuple(notes))

    earlier = [record.read[0] for run in finished if (record := record_of(run))]
    measured = {run.path: read_test_metrics(run, progress) for run in finished}
    if earlier:
        notes.append(
            f"the test split of {len(earlier)} of these runs was read before, first on "
            f"{min(earlier)}: a choice made by test results makes them results of a choice"
        )
    return MetricsOfRuns(measured, tuple(notes))


def metric_directions(
    names: Sequence[str], baseline: Arm, by_run: Mapping[Path, Metrics], split: str
) -> dict[str, bool]:
    """Return each metric to compare -> whether higher is better.

    names: default: the first metric of each task of the baseline.
    Raises MtlError if a metric has no direction, or if no run has it.
    """
    experiment = RunFolder(baseline.first.path).experiment()
    known = directions(experiment)
    measured = {name for metrics in by_run.values() for name in metrics}
    usable = [name for name in known if name in measured]
    if not usable:
        raise MtlError(_nothing_measured(by_run, split))
    for name in names:
        if name not in usable:
            raise MtlError(
                f"metric = {name!r}: the runs have no such metric on {split}; "
                f"{nearest(name, usable)}"
            )
    if names:
        return {name: known[name] for name in dict.fromkeys(names)}

    of_tasks = {label: _first_of(label, usable) for label in experiment.tasks}
    default = [name for name in of_tasks.values() if name is not None]
    if not default:
        others = ", ".join(name for name in usable if name != LOSS)
        raise MtlError(
            "the baseline has no task, and losses of different objectives can't be compared: "
            f"name a metric, such as --metric {usable[0]}; known: {others}"
        )
    return {name: known[name] for name in default}


def values_of(
    metric: str, arms: Sequence[Arm], by_run: Mapping[Path, Metrics]
) -> dict[str, dict[int, float]]:
    """Return arm -> seed -> metric. nan for a run without a result.

    An arm whose finished runs all lack the metric, such as the loss of another arm's pretext, is
    empty.
    """
    found: dict[str, dict[int, float]] = {}
    for arm in arms:
        measured = [by_run[run.path] for run in arm.runs.values() if run.path in by_run]
        found[arm.name] = {}
        if measured and not any(metric in metrics for metrics in measured):
            continue
        for seed, run in arm.runs.items():
            found[arm.name][seed] = float(by_run.get(run.path, {}).get(metric, math.nan))
    return found


def _first_of(label: str, metrics: Sequence[str]) -> str | None:
    return next((name for name in metrics if name.startswith(f"{label}/")), None)


def _nothing_measured(by_run: Mapping[Path, Metrics], split: str) -> str:
    if not by_run:
        return "no run is finished: nothing to compare yet"
    listed = first_few([str(run) for run in by_run], 3)
    return (
        f"the runs have no metric on {split} ({listed}): set input.validation to the share of the "
        "training samples to hold out, or compare on the test split: --test"
    )


def _no_result(run: RunRecord) -> str:
    """Return the note on a run that has not finished."""
    if run.provenance.get("diverged"):
        return f"{run.path} diverged: with its seed, nothing is decided about its arm"
    return (
        f"{run.path} is not finished: with its seed, nothing is decided about its arm. "
        f"Finish it: mtl train --resume {in_shell(run.path)}"
    )
