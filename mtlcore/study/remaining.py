"""What is left of a study, and how much compute it takes, from the runs that have ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import frozen

from ..config.experiment import Input
from ..config.overrides import apply, read_toml
from ..files import decoded, read_file
from .plan import Plan
from .results import Row, Run, key_of, name_of
from .workspace import Rows, Stale


@frozen
class Remaining:
    """What is left.

    ended: number of runs that have ended. left: the runs that are known and have not, of those
        that were asked for. others: the number of the rest.
    cpu_s: name -> CPU seconds estimated; nan if no run has ended that could tell.
    equal_compute_follows: whether runs of the baseline at equal compute may be added.
    pending: stages whose runs depend on results that do not exist yet.
    errors: name -> why a run failed, which is tried again. stale: rows that no longer count.
    """

    ended: int
    left: tuple[Run, ...]
    others: int
    cpu_s: dict[str, float]
    pending: tuple[str, ...]
    errors: dict[str, str]
    stale: tuple[Stale, ...]
    equal_compute_follows: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return not self.left and not self.others and not self.pending

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return what a user reads, one line each."""
        if self.done:
            return [f"all {self.ended} runs are done", *self._stale()]
        lines = [f"{_seconds(self.cpu_s[run.name]):>8}  {run.name}" for run in self.left]
        known = [cpu_s for cpu_s in self.cpu_s.values() if math.isfinite(cpu_s)]
        unknown = len(self.cpu_s) - len(known)
        if known or not self.left:
            total = f"{sum(known):8.0f}  CPU seconds estimated for the "
            total += f"{len(self.left)} runs known so far"
            total += f", without {unknown} of unknown compute" if unknown else ""
        else:
            total = f"{len(self.left)} runs are left; CPU seconds are estimated after the first run"
        lines += [total, f"{self.ended} runs are done"]
        if self.equal_compute_follows:
            lines.append(
                "equal_compute: the baseline with more steps follows, after the first seed of the "
                "other arms"
            )
        if self.pending:
            names = ", ".join(self.pending)
            lines.append(f"Stages that depend on results that do not exist yet: {names}")
        lines += [f"{name} failed: {why}; it is tried again" for name, why in self.errors.items()]
        return [*lines, *self._stale()]

    def _stale(self) -> list[str]:
        return no_longer_count(self.stale) if self.stale else []


def no_longer_count(stale: Sequence[Stale]) -> list[str]:
    """Return how many rows the study no longer counts, since it was edited, and why."""
    number = "1 row no longer counts" if len(stale) == 1 else f"{len(stale)} rows no longer count"
    reasons = dict.fromkeys(f"  {old.reason}" for old in stale)
    return [f"{number}, because the study was edited{':' if stale else ''}", *reasons]


def remaining(plan: Plan, rows: Rows, left: Sequence[Run]) -> Remaining:
    """Return what is left of a plan. left: its runs that have not ended."""
    return Remaining(
        ended=len(plan.results.rows),
        left=tuple(left),
        others=len(plan.left()) - len(left),
        cpu_s={run.name: estimate(plan, run) for run in left},
        pending=tuple(plan.pending_stages()),
        errors={name_of(key_of(row)): row["failed"] for row in rows.errors},
        stale=rows.stale,
        equal_compute_follows=_follows(plan),
    )


def _follows(plan: Plan) -> bool:
    """Return whether an arm has no row yet that says how many images it encodes."""
    study = plan.definition
    if study.equal_compute is not True:
        return False
    return any(math.isnan(plan.forwards(name)) for name in study.arms)


def estimate(plan: Plan, run: Run) -> float:
    """Estimate the CPU seconds of a run; nan if nothing is known.

    From the runs of its arm, or of the arm that it derives from, or else of all arms by the number
    of encoded batches. Before any run, from `forwards_per_cpu_s`.
    """
    name = run.arm.name
    rows = [row for row in plan.results.rows if row["cpu_s"] > 0 and "failed" not in row]
    for arm in (name, name.rpartition("+")[0]):
        mine = [row["cpu_s"] / row["steps"] for row in rows if row["arm"] == arm]
        if mine:
            return run.steps * sum(mine) / len(mine)
    if plan.definition.forwards_per_cpu_s is not None:
        return _encoded(plan, run) / plan.definition.forwards_per_cpu_s
    batches = [row["steps"] * _views(plan, row) for row in rows]
    if not batches:
        return math.nan
    return run.steps * run.arm.views * sum(row["cpu_s"] for row in rows) / sum(batches)


def _views(plan: Plan, row: Row) -> int:
    return plan.arm(row["arm"]).views


def _encoded(plan: Plan, run: Run) -> float:
    """Estimate the number of encoded images. Pre-training counts as the arm's `views`, too."""
    tables = read_toml(decoded(read_file(plan.definition.base(run.config))))
    apply(tables, [*run.overrides, *plan.definition.settings])
    batch_size = int(tables.get("input", {}).get("batch_size", Input().batch_size))
    return float(run.steps * batch_size * run.arm.views)


def _seconds(cpu_s: float) -> str:
    return f"{cpu_s:.0f}" if math.isfinite(cpu_s) else "?"
