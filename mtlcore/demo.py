"""The comparison that `mtl demo` runs: supervised learning alone against the hybrid model.

SL trains the experiment without its pretext tasks, HMTL trains it with them. Both take the same
number of steps.
"""

from __future__ import annotations

from pathlib import Path

from attrs import evolve, frozen

from .api import train
from .callbacks.progress import ProgressReporter
from .config.experiment import Experiment


@frozen
class Arm:
    """The result of one of the two runs.

    test: supervised metrics on the test split, by "<label>/<metric>".
    pretexts: metrics of the pretext tasks on the validation split, by "<label>/<metric>".
    cpu_s: CPU seconds of the training.
    """

    name: str
    test: dict[str, float]
    pretexts: dict[str, float]
    cpu_s: float


def arms(hybrid: Experiment) -> dict[str, Experiment]:
    """The supervised baseline (no [pretext.*] tables) and the hybrid experiment itself."""
    return {"SL": evolve(hybrid, pretexts={}), "HMTL": hybrid}


def run_arm(name: str, experiment: Experiment, folder: Path, reporter: ProgressReporter) -> Arm:
    """Train an experiment into folder/<name> and evaluate its last step."""
    run = train(experiment, folder / name.lower(), progress=reporter)
    test = run.evaluate(progress=reporter.progress).metrics
    pretexts = {}
    for metric, value in run.summary["validation"].items():
        label = metric.partition("/")[0]
        if label in experiment.pretexts:
            pretexts[metric] = value
    return Arm(name, test, pretexts, run.summary["cpu_s"])


def next_folder(parent: Path) -> Path:
    """The first of parent/demo-1, parent/demo-2, ... that does not exist."""
    number = 1
    while (folder := parent / f"demo-{number}").exists():
        number += 1
    return folder
