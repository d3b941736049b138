"""The main job, side by side: an experiment without its pretexts (SL) and with them (HMTL), for the same number of steps."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve, frozen

from .callbacks.progress import ProgressReporter
from .config.experiment import Experiment
from .evaluation.evaluate import evaluate
from .train.trainer import train


@frozen
class Arm:
    """One of the two. test: metrics on the test split. pretexts: what the pretexts reached on the validation split."""

    name: str
    test: dict[str, float]
    pretexts: dict[str, float]
    cpu_s: float


def arms(hybrid: Experiment) -> dict[str, Experiment]:
    """The supervised baseline, as if no [pretext.*] stood there, and the hybrid itself."""
    return {"SL": evolve(hybrid, pretexts={}), "HMTL": hybrid}


def run_arm(name: str, experiment: Experiment, folder: Path, reporter: ProgressReporter) -> Arm:
    """Train it into folder/<name> and evaluate its last step."""
    result = train(experiment, folder / name.lower(), reporter=reporter)
    test = evaluate(result.run, progress=reporter.progress).measured.metrics
    own = {
        k: v
        for k, v in result.measured.metrics.items()
        if k.partition("/")[0] in experiment.pretexts
    }
    return Arm(name, test, own, result.cpu_s)


def next_folder(parent: Path) -> Path:
    """parent/demo-1, or the first number that is free."""
    return next(p for n in range(1, 1_000_000) if not (p := parent / f"demo-{n}").exists())
