"""The cells of a study's tables: what rows of runs.jsonl say about one arm, in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from attrs import frozen

from .plan import Plan, encodes_more
from .results import Row
from .statistics import Comparison, paired

POINTS = 100.0  # multiplier of a share


@frozen
class Scale:
    """How a metric is shown. factor: 100 for a share in points. digits: after the point."""

    factor: float
    digits: int = 2


def metric_by_seed(
    rows: Sequence[Row], arm: str, split: str, metric: str, scale: Scale
) -> dict[int, float]:
    """Return seed -> scaled metric, for the rows of an arm that have the metric."""
    mine = [row for row in rows if row["arm"] == arm and metric in row.get(split, {})]
    return {row["seed"]: scale.factor * row[split][metric] for row in mine}


def reasons(failed: Mapping[str, str]) -> str:
    """Return which runs have no result, with each reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, why in failed.items():
        by_reason.setdefault(" ".join(why.split()), []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())


def arm_names(rows: Sequence[Row]) -> list[str]:
    """Return each arm once, in the order of the rows."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def mean_forwards(rows: Sequence[Row], arm: str) -> float:
    """Return the mean number of images that a run of the arm encoded; nan without a row."""
    encoded = [row["encoded"] for row in rows if row["arm"] == arm and "failed" not in row]
    return sum(encoded) / len(encoded) if encoded else math.nan


def equal_compute(plan: Plan, rows: Sequence[Row], name: str) -> str | None:
    """Return the arm to compare `name` with at an equal number of encoder forwards.

    It is the baseline, or if `name` encodes more images, the baseline with more steps or the best
    arm of `equal_compute`. It is None for the baseline and for those arms themselves.
    """
    study = plan.definition
    longer = [arm.name for arm in plan.longer()]
    if name in (study.baseline, *study.equal_compute_arms, *longer):
        return None
    mine, base = mean_forwards(rows, name), mean_forwards(rows, study.baseline)
    if math.isnan(base):  # of an extra that the baseline has no part in
        mine, base = plan.forwards(name), plan.forwards(study.baseline)
    if not encodes_more(mine, base):
        return study.baseline
    if study.equal_compute is True:
        wanted = plan.longer_for(name)
        return wanted.name if wanted is not None and wanted.name in longer else None
    return next((arm.name for arm in plan.role("@equal_compute")), None)


def shown_difference(
    rows: Sequence[Row], name: str, rival: str | None, split: str, metric: str, scale: Scale
) -> str:
    """Return the paired difference; empty without a rival or without common seeds."""
    if rival is None or rival == name:
        return ""
    mine = metric_by_seed(rows, name, split, metric, scale)
    other = metric_by_seed(rows, rival, split, metric, scale)
    found = paired(mine, other)
    return found.signed(scale.digits) if found else ""


def verdict_cells(found: Comparison, digits: int) -> tuple[str, ...]:
    p = "" if found.p_holm is None else f"{found.p_holm:.3f}"
    if p == "0.000":
        p = "< 0.001"
    signed = found.signed(digits) if found.difference.n else ""
    return (found.arm, found.baseline, str(found.difference.n), signed, p, found.text)


def shown_number(value: float, scale: Scale) -> str:
    return f"{scale.factor * value:.{scale.digits}f}" if math.isfinite(value) else "diverged"


def seeds_by_device(rows: Sequence[Row]) -> str:
    """Return for each device its seeds and the mean CPU seconds of a run.

    Devices differ in rounding, so metrics differ slightly, and in speed.
    """
    by_device: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        device = row["device"].removeprefix("x86_64 ").removeprefix("NVIDIA ")
        by_device.setdefault(device, []).append(row)
    cells: list[str] = []
    for device, found in by_device.items():
        seeds = ", ".join(str(row["seed"]) for row in found)
        cpu_s = sum(row["cpu_s"] for row in found) / len(found)
        cells.append(f"{device}: {seeds} ({cpu_s:.0f})")
    return "; ".join(cells)
