"""A committed protocol with its finished rows, and the differences of its arms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen
from hmtl.protocols import ROOT, load, workspace

from mtlcore.study.cells import Scale, equal_compute, metric_by_seed
from mtlcore.study.plan import Plan
from mtlcore.study.report import Tables
from mtlcore.study.results import Row
from mtlcore.study.statistics import Comparison, Spread, paired

RESULTS = ROOT / "benchmarks" / "results"
UNKNOWN = "not known"


@frozen(eq=False)
class Protocol:
    """A committed protocol with its finished rows."""

    name: str
    tables: Tables

    @property
    def plan(self) -> Plan:
        """All runs of the protocol."""
        return self.tables.plan

    def rows(self, stage: str = "main") -> list[Row]:
        """The finished rows of a stage, of the trials that were chosen."""
        return self.tables.rows_of(stage)

    def spread(self, mine: str, other: str | None, stage: str = "main") -> Spread | None:
        """The paired difference of two arms on test; None without a common seed."""
        if other is None:
            return None
        metric = self.plan.definition.metric_of(stage) or self.plan.results.metric
        rows, scale = self.rows(stage), self.scale(stage)
        both = [metric_by_seed(rows, arm, "test", metric, scale) for arm in (mine, other)]
        return paired(*both)

    def rival(self, arm: str, stage: str = "main") -> str | None:
        """The baseline at the compute of an arm; None where it did not run."""
        return equal_compute(self.plan, self.rows(stage), arm)

    def comparisons(self) -> dict[tuple[str, str], Comparison]:
        """Arm and other arm -> their comparison, corrected for all claims of the protocol."""
        return {(c.arm, c.baseline): c for c in self.tables.comparisons()}

    def steps(self, arm: str, stage: str) -> int | None:
        """The steps of the runs of an arm; None without a run."""
        return next((row["steps"] for row in self.rows(stage) if row["arm"] == arm), None)

    def scale(self, stage: str) -> Scale:
        """The multiplier of the metric of a stage."""
        extras = {extra.name: extra for extra in self.plan.definition.extras}
        return self.tables.scale_of_extra(extras[stage]) if stage in extras else self.tables.scale

    def arms(self, stage: str = "main") -> list[str]:
        """The arms that have finished rows."""
        return list(dict.fromkeys(row["arm"] for row in self.rows(stage)))


def protocols() -> dict[str, Protocol]:
    """Return name -> protocol, for those that have committed rows."""
    found: dict[str, Protocol] = {}
    for file in sorted(RESULTS.glob("hmtl-*/runs.jsonl")):
        name = file.parent.name.removeprefix("hmtl-")
        here = workspace(load(name), Path("data"), Path("runs"), file)
        found[name] = Protocol(name, Tables(here.plan()))
    return found


def question(file: Path) -> str:
    """Return the first sentences of a protocol's comment: up to the first empty line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not text:
            break
        lines.append(text)
    return " ".join(lines)


def gain(known: Mapping[str, Protocol], name: str, arm: str, stage: str = "main") -> str:
    """Return the difference from SL at equal compute, or at equal steps where that did not run.

    Unknown if neither ran, or if the arm takes more steps than SL and SL at equal compute did not.
    """
    protocol = known.get(name)
    if protocol is None or arm not in protocol.arms(stage):
        return UNKNOWN
    found, note = protocol.spread(arm, protocol.rival(arm, stage), stage), ""
    if found is None:
        baseline = protocol.plan.definition.baseline
        if protocol.steps(arm, stage) == protocol.steps(baseline, stage):
            found, note = protocol.spread(arm, baseline, stage), ", equal steps"
    if found is None:
        return UNKNOWN
    unit = "" if protocol.plan.results.higher_is_better(stage) else " degrees"
    return f"{found.signed()}{unit}, n = {found.n}{note}"
