"""The runs of a study, and what the finished ones measured.

A run is known by its key. A finished run has a row, one line of runs.jsonl.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from attrs import frozen

from ..errors import MtlError
from .definition import Arm, Definition

Row = dict[str, Any]
"""One line of runs.jsonl."""
DECIMALS = 6
"""The decimals of the metrics in a row."""
HALF_DECIMAL = 0.5 * 10**-DECIMALS
"""How far a metric of a row is off at most."""
Key = tuple[str, str, int, int, int]
"""Stage, arm, trial, seed, steps."""
PRETRAINING = "-pretraining"
"""The end of the name of a run folder that holds the pre-training of the run before it."""


@frozen
class Run:
    """One run; `stage`, `arm`, `trial`, `seed` and `steps` identify it.

    stage: "tune", "main", or the name of an extra.
    set: settings of the extra.
    config: base configuration of the extra; None uses the study's.
    split: the split that is used as the test split.
    """

    stage: str
    arm: Arm
    trial: int
    seed: int
    steps: int
    set: tuple[str, ...] = ()
    config: str | None = None
    split: str = "test"

    @property
    def key(self) -> Key:
        """Its key, equal to `key_of` of its row."""
        return self.stage, self.arm.name, self.trial, self.seed, self.steps

    @property
    def name(self) -> str:
        """The name that users type, and the name of the run folder."""
        return name_of(self.key)

    @property
    def overrides(self) -> tuple[str, ...]:
        """All settings that differ from the base configuration; later ones win."""
        return (*self.arm.set, *self.arm.trials[self.trial], *self.set, f"seed={self.seed}")


@frozen(eq=False)
class Results:
    """The finished rows of a study."""

    rows: Sequence[Row]
    definition: Definition

    @cached_property
    def by_key(self) -> dict[Key, Row]:
        """Key -> row."""
        return {key_of(row): row for row in self.rows}

    @cached_property
    def metric(self) -> str:
        """The validation metric that chooses trials and arms; "" before the first row."""
        rows = [row for row in self.rows if row["stage"] in ("tune", "main")]
        named = (row["metric"] for row in rows if "metric" in row)
        return self.definition.metric or next(named, "")

    def higher_is_better(self, stage: str = "main") -> bool:
        """The direction of the metric of a stage, from its rows.

        Raises MtlError if the study was edited, and now names a metric whose direction no row has.
        """
        of_extra = any(extra.name == stage for extra in self.definition.extras)
        if self.definition.higher_is_better is not None and not of_extra:
            return self.definition.higher_is_better
        stages = (stage,) if of_extra else ("tune", "main")
        metric = self.definition.metric_of(stage)
        known = [row for row in self.rows if row["stage"] in stages and "higher_is_better" in row]
        for row in known:
            if metric is None or row.get("metric", metric) == metric:
                return bool(row["higher_is_better"])
        if known:
            other = "give the extra a new name" if of_extra else "set higher_is_better, too"
            raise MtlError(
                f"metric = {metric!r}: the rows were made for {known[0]['metric']!r}, and do not "
                f"say whether more is better: {other}, or restore the metric"
            )
        # Rows without the field are of committed studies. An extra with its own scale, such as
        # degrees, reports an error.
        extra = next((e for e in self.definition.extras if e.name == stage), None)
        return extra is None or extra.scale in (None, 100.0)

    def row(self, run: Run) -> Row | None:
        """Return the row of a run, or None if the run has not ended."""
        return self.by_key.get(run.key)

    def value(self, run: Run) -> float | None:
        """Return the validation metric of a run: nan if it diverged, None if it has not ended."""
        row = self.row(run)
        return None if row is None else metric_in(row, "validation", self.metric)

    def score(self, run: Run) -> float | None:
        """Return `value` such that more is better, and a diverged run is the worst."""
        value = self.value(run)
        if value is None or not math.isfinite(value):
            return None if value is None else -math.inf
        return value if self.higher_is_better() else -value


def metric_in(row: Row, split: str, metric: str) -> float:
    """Return a metric of a row; nan without it."""
    value = row.get(split, {}).get(metric)
    return math.nan if value is None else float(value)


def key_of(row: Row) -> Key:
    """Return the key of a row: it equals `Run.key` of its run."""
    return row["stage"], row["arm"], row["trial"], row["seed"], row["steps"]


def name_of(key: Key) -> str:
    """Join a key into one word: the name that users type, and the name of the run folder."""
    return "-".join(map(str, key))
