"""Where a sweep stands: the figures of the runs that ended, mean and spread of each setting, and the best one."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from ..callbacks.guard import best_by, directions
from ..config import load
from ..errors import MtlError
from ..runs import RunFolder, finite
from .planned import Planned

VALIDATION = "set input.validation to the share of the training rows to keep for it, such as 0.1"


@frozen
class Figure:
    """One run that ended. value: of the main metric; nan where it came to nothing. validation: all figures on that split.

    diverged: it ended before its last step. steps, cpu_s: then those of its last log line.
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
    """The runs of one setting that ended. values: by key, as TOML understands them."""

    values: dict[str, Any]
    figures: tuple[Figure, ...]

    @property
    def n(self) -> int:
        return len(self.figures)

    @property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(f.diverged for f in self.figures)

    @property
    def mean(self) -> float:
        """Of the main metric over the seeds; nan where there is none, or where one is nan."""
        return statistics.fmean(f.value for f in self.figures) if self.figures else math.nan

    @property
    def sd(self) -> float:
        """The sample's standard deviation (n - 1); nan of a single run."""
        values = [f.value for f in self.figures]
        return (
            statistics.stdev(values) if self.n > 1 and all(map(math.isfinite, values)) else math.nan
        )

    def as_json(self) -> dict[str, Any]:
        runs = [asdict(figure) for figure in self.figures]
        return finite(
            {"values": self.values, "n": self.n, "mean": self.mean, "sd": self.sd, "runs": runs}
        )


@frozen
class Outcome:
    """Where a sweep stands. metric: "" before the first run has ended. chosen: the best setting, once all have."""

    metric: str
    higher_is_better: bool
    settings: tuple[Setting, ...]
    chosen: Setting | None

    def as_json(self) -> dict[str, Any]:
        """What sweep.json and `mtl sweep --json` say."""
        return {
            "split": "validation",
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "settings": [setting.as_json() for setting in self.settings],
            "chosen": self.chosen.values if self.chosen else None,
        }


@functools.cache
def judged_by(run: Path) -> tuple[str, bool]:
    """A run's main metric, and whether more of it is better: only a resolved configuration knows (its classes)."""
    experiment = load(run / "config.toml")
    name = best_by(experiment)
    return name, directions(experiment)[name]


def figure_of(run: Planned, metric: str) -> Figure:
    folder = RunFolder(run.folder)
    provenance = folder.provenance()
    if run.state == "diverged":
        last: dict[str, Any] = next((row for row in reversed(folder.rows()) if "cpu_s" in row), {})
        return Figure(
            run.name,
            run.seed,
            math.nan,
            {},
            last.get("step", 0),
            last.get("cpu_s", 0.0),
            diverged=True,
        )
    validation = provenance.get("validation", {})
    if metric not in validation:
        raise MtlError(
            f"{run.folder}: there is no {metric!r} on the validation split, by which a setting is chosen: {VALIDATION}"
        )
    return Figure(
        run.name,
        run.seed,
        float(validation[metric]),
        validation,
        provenance["steps"],
        provenance["cpu_s"],
    )


def best_of(settings: Sequence[Setting], higher: bool) -> Setting | None:
    """The best mean; of equal ones the first."""
    known = [setting for setting in settings if math.isfinite(setting.mean)]
    return max(known, key=lambda s: s.mean if higher else -s.mean, default=None)
