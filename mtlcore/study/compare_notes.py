"""What limits a comparison of runs: settings, data, compute and environment that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..errors import first_few
from .arms_of_runs import Arm
from .run_settings import RunRecord, unfair

SAME_COMPUTE = 1.25
"""Times the images that the baseline encodes. Below it, compute counts as equal."""
SETS_DATA = ("data", "input", "task")
"""The tables that decide what data a run sees: other tasks read other labels."""
ENVIRONMENT = ("device", "mtlcore", "torch")


def notes_on(
    arms: Sequence[Arm],
    baseline: Arm,
    different: Mapping[str, Mapping[str, str]],
    vary: Sequence[str],
) -> list[str]:
    """Return a line for each thing that makes the comparison unfair or less certain.

    different: arm -> key -> the values that differ from the baseline. vary: what is compared on
    purpose.
    """
    notes: list[str] = []
    for arm in arms:
        if arm is not baseline:
            notes += _unfair_settings(different[arm.name], vary)
            notes += _other_data(arm, baseline, different[arm.name], vary)
            notes += _unpaired_seeds(arm, baseline)
            notes += _other_compute(arm, baseline)
    return [*notes, *_environment([run for arm in arms for run in arm.runs.values()])]


def _unfair_settings(different: Mapping[str, str], vary: Sequence[str]) -> Iterator[str]:
    for key in unfair(list(different), vary):
        yield (
            f"{key} differs: {different[key]}. If you compare it on purpose, say so: --vary {key}"
        )


def _other_data(
    arm: Arm, baseline: Arm, different: Mapping[str, str], vary: Sequence[str]
) -> Iterator[str]:
    """Yield a note if runs of one seed saw other data though their settings are the same."""
    if any(key.partition(".")[0] in SETS_DATA for key in (*different, *vary)):
        return
    for seed in sorted(arm.runs.keys() & baseline.runs.keys()):
        mine, other = arm.runs[seed].provenance, baseline.runs[seed].provenance
        if mine.get("data_fingerprint") != other.get("data_fingerprint"):
            yield (
                f"the data of {arm.name} and {baseline.name} differ at seed {seed}, with the same "
                "settings: the files, labels or splits changed between the runs"
            )
            return


def _unpaired_seeds(arm: Arm, baseline: Arm) -> Iterator[str]:
    left_out = sorted(arm.runs.keys() ^ baseline.runs.keys())
    if left_out:
        seeds = ", ".join(map(str, left_out))
        yield (
            f"only one of {arm.name} and {baseline.name} has seed {seeds}: "
            "their difference leaves it out"
        )


def _other_compute(arm: Arm, baseline: Arm) -> Iterator[str]:
    mine, other = arm.mean("encoded"), baseline.mean("encoded")
    if not mine or not other:
        return
    ratio = mine / other
    if max(ratio, 1 / ratio) >= SAME_COMPUTE:
        yield (
            f"{arm.name} encodes {ratio:.2f} times as many images as {baseline.name}: "
            "the compute is not equal. A study can compare at equal compute"
        )


def _environment(runs: Sequence[RunRecord]) -> Iterator[str]:
    for name in ENVIRONMENT:
        found: dict[str, None] = {}
        for run in runs:
            versions = {**run.provenance.get("versions", {}), **run.provenance}
            found[str(versions.get(name, "unknown"))] = None
        if len(found) > 1:
            listed = first_few(list(found), 4)
            yield f"the runs differ in {name} ({listed}): metrics differ slightly by rounding"
