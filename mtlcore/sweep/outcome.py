"""The results of a sweep: the score of each run, their mean and spread, and the best setting."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from attrs import asdict, frozen

from ..config import load
from ..errors import MtlError
from ..evaluation.best import best_by, directions
from ..files import finite
from ..runs import RunFolder
from .planned import Planned

VALIDATION = "set input.validation to the share of the training samples to hold out, such as 0.1"


@frozen
class Score:
    """The score of a run that ended.

    run: the name of its folder.
    value: the main metric on the validation split at the last step; nan where it has none.
    validation: all metrics on that split.
    steps, cpu_s: of the whole run. Where it diverged, those of its last log line.
    diverged: it stopped before its last step.
    """

    run: str
    seed: int
    value: float
    validation: dict[str, float]
    steps: int
    cpu_s: float
    diverged: bool = False


@frozen
class Setting:
    """The runs of one setting that ended.

    values: key -> value, as TOML reads it.
    scores: one per run.
    """

    values: dict[str, object]
    scores: tuple[Score, ...]

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.scores)

    @property
    def diverged(self) -> int:
        """The number of runs that diverged."""
        return sum(score.diverged for score in self.scores)

    @property
    def mean(self) -> float:
        """The mean of the main metric over the seeds; nan without runs, or where one is nan."""
        return statistics.fmean(s.value for s in self.scores) if self.scores else math.nan

    @property
    def sd(self) -> float:
        """The sample standard deviation (n - 1); nan for a single run."""
        values = [score.value for score in self.scores]
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return math.nan
        return statistics.stdev(values)

    def as_json(self) -> dict[str, object]:
        """One entry of "settings" in sweep.json."""
        row = {
            "values": self.values,
            "n": self.n,
            "mean": self.mean,
            "sd": self.sd,
            "runs": [asdict(score) for score in self.scores],
        }
        result: dict[str, object] = finite(row)
        return result


@frozen
class Outcome:
    """The results of a sweep so far.

    metric: the main metric; "" before the first run has ended.
    chosen: the best setting; None before all runs have ended.
    """

    metric: str
    higher_is_better: bool
    settings: tuple[Setting, ...]
    chosen: Setting | None

    def as_json(self) -> dict[str, object]:
        """The content of sweep.json and of `mtl sweep --json`."""
        return {
            "split": "validation",
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "settings": [setting.as_json() for setting in self.settings],
            "chosen": self.chosen.values if self.chosen else None,
        }


@functools.cache
def main_metric_of(run: Path) -> tuple[str, bool]:
    """The main metric of a run folder, and whether higher is better.

    It takes the resolved configuration: the metrics of a task may depend on the classes, which are
    known only after the run has read its data.
    """
    experiment = load(run / "config.toml")
    name = best_by(experiment)
    return name, directions(experiment)[name]


def score_of(run: Planned, metric: str) -> Score:
    """Read the score of a run that ended. Raises MtlError where the metric is missing."""
    folder = RunFolder(run.folder)
    if run.state == "diverged":
        steps, cpu_s = 0, 0.0
        for row in reversed(folder.log.rows()):
            if "cpu_s" in row:
                steps, cpu_s = row["step"], row["cpu_s"]
                break
        return Score(run.name, run.seed, math.nan, {}, steps, cpu_s, diverged=True)

    provenance = folder.provenance()
    validation = provenance.get("validation", {})
    if metric not in validation:
        raise MtlError(
            f"{run.folder}: it has no {metric!r} on the validation split, "
            f"and settings are compared by that metric: {VALIDATION}"
        )
    value = float(validation[metric])
    steps, cpu_s = provenance["steps"], provenance["cpu_s"]
    return Score(run.name, run.seed, value, validation, steps, cpu_s)


def best_of(settings: Sequence[Setting], higher: bool) -> Setting | None:
    """The setting with the best finite mean; the first of equal ones; None without any."""
    known = [setting for setting in settings if math.isfinite(setting.mean)]
    return max(known, key=lambda s: s.mean if higher else -s.mean, default=None)
