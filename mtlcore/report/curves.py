"""The curves of a run, from metrics.jsonl: losses, weights, gradients, learning rate, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.groups import without_groups
from .blocks import Block, Chart, Charts, Missing, Text
from .charts import Series, line_chart
from .numbers import shown

Row = Mapping[str, Any]

_TITLES = {
    "loss": "Losses, before any weight",
    "weight": "Weights of the losses",
    "task_weight": "Task weights of the loss weighting",
    "grad_norm": "Norm of the gradient, before clipping",
    "lr": "Learning rate",
}
_COUNTERS = ("step", "epoch", "skipped", "encoded", "cpu_s")
VALIDATION = "validation/"
FEWEST = 2  # rows that make a curve


def curves(rows: Sequence[Row]) -> list[Block]:
    """The curves of the training rows, then those of the evaluations."""
    training = [row for row in rows if "lr" in row]
    evaluations = [row for row in rows if any(key.startswith(VALIDATION) for key in row)]
    if not training:
        return [Missing("curves", "The log has no line yet: the run has not logged a step.")]
    found: list[Block] = []
    charts, constant = _charts(_grouped(training, _COUNTERS), training)
    if charts:
        found.append(Charts(charts))
    found += [Text(f"{line}.", quiet=True) for line in constant]
    found += _of_validation(evaluations)
    return found


def _of_validation(evaluations: Sequence[Row]) -> list[Block]:
    if not evaluations:
        why = "The run has not been evaluated yet, or it has no validation split."
        return [Missing("validation curves", why)]
    renamed = []
    for row in evaluations:
        metrics = {k.removeprefix(VALIDATION): v for k, v in without_groups(row).items()}
        renamed.append({**metrics, "step": row["step"]})
    if len(renamed) < FEWEST:
        return [
            Text("The run was evaluated once. Its metrics are below, without a curve.", quiet=True)
        ]
    groups = {f"validation: {k}": v for k, v in _grouped(renamed, ("step",)).items()}
    charts, _ = _charts(groups, renamed, keep_constant=True)
    return [Charts(charts)]


def _grouped(rows: Sequence[Row], without: Sequence[str]) -> dict[str, list[str]]:
    """What belongs in one chart -> its keys. A pretext's loss and its metrics are two charts."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in without)
    groups: dict[str, list[str]] = {}
    for key in keys:
        group, _, rest = key.partition("/")
        if rest == "loss":
            group = f"{group} loss"
        groups.setdefault(group, []).append(key)
    return groups


def _charts(
    groups: Mapping[str, Sequence[str]], rows: Sequence[Row], keep_constant: bool = False
) -> tuple[list[Chart], list[str]]:
    """One chart for each group, and a line of words for each group that never changes."""
    charts: list[Chart] = []
    constant: list[str] = []
    for group, keys in groups.items():
        title = _TITLES.get(group, group[0].upper() + group[1:])
        series = [_series(key, rows) for key in keys]
        if not keep_constant and all(len(set(one.y)) == 1 for one in series):
            values = [f"{one.name} {shown(one.y[0])}" for one in series]
            constant.append(f"{title}, constant: {', '.join(values)}")
            continue
        charts.append(line_chart(title, series, "step", log=group == "grad_norm"))
    return charts, constant


def _series(key: str, rows: Sequence[Row]) -> Series:
    own = [row for row in rows if key in row]
    name = key.partition("/")[2] or key
    values = [float(row[key]) if row[key] is not None else math.nan for row in own]
    return Series(name, [float(row["step"]) for row in own], values)
