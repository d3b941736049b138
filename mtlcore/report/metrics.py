"""The metrics of a run: with intervals, by class, by group, by range of the label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from .answers import Answers
from .blocks import Block, Chart, Charts, Columns, Matrix, Missing, Table, Text
from .bootstrap import Estimate, estimate
from .charts import Interval, interval_chart
from .numbers import shown, with_interval

if TYPE_CHECKING:
    from torchmetrics import Metric

RANGES = 6  # of the values of a label, about
MOST_CLASSES = 30  # of a confusion matrix that is drawn
FEWEST_IN_RANGE = 5  # samples


def metric_table(all_answers: Sequence[Answers]) -> Table:
    """One row for each scalar metric of each task, with its bootstrap interval."""
    rows: list[tuple[str, ...]] = []
    for answers in all_answers:
        for name, metric in answers.task.metrics().items():
            if name in answers.metrics:
                found = _estimate(answers, metric, answers.metrics[name])
                rows.append(_metric_row(answers, name, metric, found))
    columns = ("metric", "value", "95 % interval", "better", "split", "n")
    return Table("Metrics of the supervised tasks", columns, rows)


def _metric_row(answers: Answers, name: str, metric: Metric, found: Estimate) -> tuple[str, ...]:
    directions = {True: "higher", False: "lower", None: ""}
    better = directions[metric.higher_is_better]
    where = (answers.split, f"{answers.n:,}")
    interval = f"{shown(found.low)} to {shown(found.high)}" if math.isfinite(found.low) else "-"
    return (f"{answers.label}/{name}", shown(found.value), interval, better, *where)


def _estimate(answers: Answers, metric: Metric, value: float) -> Estimate:
    """A metric of all samples; without an interval where the predictions were not kept."""
    if answers.predictions is None or answers.targets is None:
        return Estimate(value, math.nan, math.nan, answers.n)
    return estimate(metric, answers.predictions, answers.targets, value)


# ---------------------------------------------------------------------------------- matrices


def confusion(answers: Answers) -> Iterator[Table | Matrix]:
    """Each matrix of a task: true classes as rows, predicted classes as columns."""
    for name, matrix in answers.tables.items():
        cells = np.asarray(matrix, float)
        if cells.ndim != 2:
            continue
        title = f"{answers.label}/{name} on {answers.split}, {answers.n:,} samples"
        if max(cells.shape) > MOST_CLASSES:
            yield _most_confused(title, cells, answers.task.classes)
            continue
        rows, columns = (_names(answers.task.classes, n) for n in cells.shape)
        shares = cells / np.maximum(cells.sum(1, keepdims=True), 1e-12)
        texts = [[shown(value) for value in row] for row in cells.tolist()]
        yield Matrix(title, "true", "predicted", rows, columns, texts, shares.tolist())


def _most_confused(title: str, cells: np.ndarray, classes: Sequence[str]) -> Table:
    """The most frequent confusions of a matrix that is too large to draw."""
    names = _names(classes, len(cells))
    wrong = cells.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None)[:MOST_CLASSES]
    rows = []
    for row, column in zip(*np.unravel_index(order, wrong.shape)):
        if wrong[row, column] > 0:
            of = shown(float(cells[row].sum()))
            rows.append((names[row], names[column], shown(float(wrong[row, column])), of))
    caption = f"{title}: the most frequent confusions of {len(names)} classes"
    return Table(caption, ("true", "predicted", "samples", "of"), rows)


def _names(classes: Sequence[str], n: int) -> Sequence[str]:
    return classes if len(classes) == n else [str(number) for number in range(n)]


# ---------------------------------------------------------------------------------- groups


def by_group(answers: Answers) -> list[Block]:
    """The main metric of each group of the task's `by`, with the number of samples."""
    found: list[Block] = []
    for attribute in answers.task.by:
        if attribute not in answers.data.attributes:
            found.append(
                Missing(f"{answers.label} by {attribute}", "The data has no such attribute.")
            )
            continue
        values = answers.data.attributes[attribute][answers.indices]
        groups = {value: np.asarray(values == value) for value in values.used() if value}
        found += _subsets(answers, f"by {attribute}", groups, attribute)
    return found


def by_range(answers: Answers) -> list[Block]:
    """The main metric by the true value of each number that the task predicts, such as an angle."""
    if answers.targets is None or answers.format.form != "values" or answers.is_map:
        return []
    numbers = answers.numbers(answers.truth())
    names = answers.format.names or [""] * numbers.shape[1]
    found: list[Block] = []
    for name, column in zip(names, numbers.T):
        unit = f" ({answers.format.unit})" if answers.format.unit else ""
        axis = f"{name or 'true value'}{unit}"
        found += _subsets(answers, f"by {axis}", _ranges(column), axis)
    return found


def _ranges(values: np.ndarray) -> dict[str, np.ndarray]:
    """Name of each range -> (n,) bool. Edges are round numbers.

    They have equal distances, but a range with too few samples is merged with the next one.
    """
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 0.0)
    if not low < high:
        return {}
    step = _round_step((high - low) / RANGES)
    edges = np.arange(math.floor(low / step), math.floor(high / step) + 2) * step
    found = {}
    for start, end in pairwise(_without_small_ranges(known, edges.tolist())):
        name = f"{shown(round(start, 9))} to {shown(round(end, 9))}"
        found[name] = (values >= start) & (values < end)
    return found


def _without_small_ranges(values: np.ndarray, edges: list[float]) -> list[float]:
    """The edges that have enough samples on both sides, up to the neighboring edge."""
    kept = edges[:1]
    for edge in edges[1:-1]:
        below = ((values >= kept[-1]) & (values < edge)).sum()
        above = (values >= edge).sum()
        if min(below, above) >= FEWEST_IN_RANGE:
            kept.append(edge)
    return [*kept, edges[-1]]


def _round_step(step: float) -> float:
    """The next of 1, 2, 3, 5, 10 x a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 3, 5, 10) if factor * power >= step * 0.999)


def _subsets(
    answers: Answers, title: str, subsets: Mapping[str, np.ndarray], axis: str
) -> list[Block]:
    """The main metric of some subsets of the samples, as a chart and as a table."""
    name, metric = main_metric(answers)
    if metric is None or answers.predictions is None or answers.targets is None or not subsets:
        return []
    rows, intervals = [], []
    for subset, members in subsets.items():
        here = torch.from_numpy(np.flatnonzero(members))
        if not len(here):
            continue
        found = estimate(metric, answers.predictions[here], answers.targets[here])
        rows.append((subset, with_interval(found), f"{found.n:,}"))
        named = f"{subset} (n = {found.n:,})"
        intervals.append(Interval(named, found.value, found.low, found.high))
    caption = f"{answers.label}/{name} {title}"
    table = Table(caption, (axis, "value (95 % interval)", "n"), rows, folded=True)
    chart = interval_chart(caption, intervals, f"{answers.label}/{name}")
    return [Chart(chart.title, chart.svg, chart.alt, (), table)]


def main_metric(answers: Answers) -> tuple[str, Metric | None]:
    """The first scalar metric of the task."""
    for name, metric in answers.task.metrics().items():
        if name in answers.metrics:
            return name, metric
    return "", None


def errors_by(all_answers: Sequence[Answers]) -> list[Block]:
    """The main metric of each task by its groups, then by ranges of its label."""
    charts: list[Chart] = []
    found: list[Block] = []
    for answers in all_answers:
        for block in (*by_group(answers), *by_range(answers)):
            if isinstance(block, Chart):
                charts.append(block)
            else:
                found.append(block)
    if charts:
        found.insert(0, Charts(charts))
    if not found:
        why = (
            "No task names attributes to group by (with its key by), and none predicts numbers "
            "whose range could be divided."
        )
        found.append(Missing("errors by group", why))
    return found


def matrices(all_answers: Sequence[Answers]) -> list[Block]:
    """The confusion matrices of all tasks."""
    tables: list[Table | Matrix] = []
    for answers in all_answers:
        tables += confusion(answers)
    if not tables:
        return []
    note = "A row is a true class. The stronger the color, the larger the share of the row."
    return [Columns(tables), Text(note, quiet=True)]
