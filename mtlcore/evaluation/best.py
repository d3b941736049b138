"""What `train.best` means: the metrics of a run, their directions, and the one that selects.

The metric that selects the best checkpoint is `train.best`: "<task>/<metric>", or a metric that a
callback adds. Default: the first metric of the first task; without tasks, the validation loss.

`config.checks` refuses a `train.best` that can't exist in any data. Which metrics a task has may
depend on its classes, so the rest is checked here, after the data was read.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..config.experiment import Experiment
from ..errors import MtlError, nearest

LOSS = "loss"
"""The metric of a run without tasks: the weighted sum of the pretexts' validation losses."""


def directions(experiment: Experiment) -> dict[str, bool]:
    """Every metric that can be better or worse -> True if higher values are better.

    Matrices are left out: they have no direction.
    """
    found: dict[str, bool] = {}
    for label, entry in experiment.entries.items():
        for name, metric in entry.component.metrics().items():
            if metric.higher_is_better is not None:
                found[f"{label}/{name}"] = bool(metric.higher_is_better)
    for label in experiment.pretexts:
        found[f"{label}/loss"] = False
    if not experiment.tasks:
        found[LOSS] = False
    for label, callback in experiment.callbacks.items():
        for name, higher_is_better in callback.figures(experiment).items():
            found[f"{label}/{name}"] = higher_is_better
    return found


def best_by(experiment: Experiment) -> str:
    """Name of the metric that selects the best checkpoint; `directions` has its direction.

    Raises MtlError if `train.best` is not such a metric.
    """
    name = experiment.train.best
    label = (name or "").partition("/")[0]
    if label in experiment.callbacks:
        known = _of_labels(experiment, {label})
        problem = f"callback.{label} adds no such metric"
    elif experiment.tasks:
        known = _of_labels(experiment, experiment.tasks)
        problem = "no such metric"
    else:
        return LOSS
    name = name or next(iter(known))
    if name not in known:
        raise MtlError(f"train.best = {name!r}: {problem}; {nearest(name, known)}")
    return name


def weighted_loss(experiment: Experiment, metrics: Mapping[str, float]) -> float:
    """The value of `LOSS`. metrics: the validation metrics of the pretexts.

    The head of a pretext without loss ("views_only") learns nothing, so it does not count.
    """
    trained = {k: v for k, v in experiment.pretexts.items() if v.control != "views_only"}
    return sum(entry.weight * metrics[f"{label}/loss"] for label, entry in trained.items())


def _of_labels(experiment: Experiment, labels: Mapping[str, object] | set[str]) -> list[str]:
    """The metrics with a direction of these tasks or callbacks."""
    return [name for name in directions(experiment) if name.partition("/")[0] in labels]
