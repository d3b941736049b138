"""Tell the metrics of a group, such as "fer/accuracy[race=white]", from those of all samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")


def group_of(metric: str, metrics: Iterable[str]) -> str:
    """Return the group of a metric, such as "race=white"; "" for one of all samples.

    metrics: all names that were measured with it. Brackets alone mark no group: a unit is written
    in brackets, too, as in "pose/mae_x [mm]". Each group also has its count, "fer/n[race=white]".
    """
    for name in metrics:
        task, mark, group = name.partition("/n[")
        if mark and metric.startswith(f"{task}/") and metric.endswith(f"[{group}"):
            return group.removesuffix("]")
    return ""


def without_groups(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Return the metrics of all samples alone."""
    counts = [name for name in metrics if "/n[" in name]
    return {name: value for name, value in metrics.items() if not group_of(name, counts)}
