"""Plots of a comparison: the mean of each arm, and its difference from the baseline.

matplotlib is imported late, and draws without a display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MtlError
from ..files import write_errors_as_mtl_error
from .statistics import Comparison, Spread, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
COLORS = {"better": "tab:green", "worse": "tab:red", "not decided": "tab:gray"}
DOTS_PER_INCH = 150


def plot_comparison(
    file: Path,
    values: Mapping[str, Mapping[int, float]],
    comparisons: Sequence[Comparison],
    metric: str,
    scale: float = 1.0,
) -> None:
    """Write the two plots of a metric side by side, into a .png, .svg or .pdf file.

    Left: each seed of each arm as a point, with the mean and its t interval. Right: the paired
    difference of each compared arm from the baseline, with its corrected interval.

    values: arm -> seed -> metric, as for `compare_arms`. scale: factor of all numbers, such as 100.
    Raises MtlError for another suffix, a missing matplotlib, or a file that can't be written.
    """
    require_suffix(file)
    figure, (left, right) = _figure(len(values))
    scaled = {arm: [scale * x for x in by_seed.values()] for arm, by_seed in values.items()}
    _plot_means(left, scaled, metric)
    _plot_differences(right, list(values), comparisons, metric, scale)
    figure.tight_layout()
    with write_errors_as_mtl_error(file):
        # Without a date in the file, equal results give equal files.
        metadata = {"Date": None} if file.suffix.lower() == ".svg" else None
        figure.savefig(file, dpi=DOTS_PER_INCH, metadata=metadata)


def require_suffix(file: Path) -> None:
    """Raise MtlError unless a plot can be written in the format of this suffix."""
    if file.suffix.lower() not in SUFFIXES:
        raise MtlError(f"{file}: can't write a plot as {file.suffix!r}: use {', '.join(SUFFIXES)}")


def _plot_means(axes: Axes, values: Mapping[str, Sequence[float]], metric: str) -> None:
    for y, points in enumerate(values.values()):
        axes.plot(points, [y] * len(points), "o", color="tab:blue", alpha=0.4, markersize=4)
        found = spread(points)
        if found.n:
            _plot_interval(axes, y, found, 1.0, "black")
    _label(axes, list(values), f"{metric}: seeds, mean, 95 % interval")


def _plot_differences(
    axes: Axes, arms: Sequence[str], comparisons: Sequence[Comparison], metric: str, scale: float
) -> None:
    for compared in comparisons:
        found = compared.difference
        corrected = Spread(found.n, found.mean, found.sd, compared.low, compared.high)
        if found.n:
            y = arms.index(compared.arm)
            _plot_interval(axes, y, corrected, scale, COLORS[compared.verdict])
    axes.axvline(0, color="black", linewidth=0.8)
    baseline = comparisons[0].baseline if comparisons else ""
    title = f"{metric}: difference from {baseline}, corrected interval"
    _label(axes, [""] * len(arms), title)


def _plot_interval(axes: Axes, y: int, found: Spread, scale: float, color: str) -> None:
    """Draw the mean as a diamond, and the interval, if there is one, as a line."""
    axes.plot([scale * found.mean], [y], "D", color=color, markersize=5)
    if found.low is not None and found.high is not None:
        axes.plot([scale * found.low, scale * found.high], [y, y], "-", color=color, linewidth=1.5)


def _label(axes: Axes, arms: Sequence[str], title: str) -> None:
    """Name the arms from top to bottom. A dollar sign in a name starts no formula."""
    axes.set_yticks(range(len(arms)), arms, parse_math=False)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(title, parse_math=False)
    axes.grid(axis="x", alpha=0.3)


def _figure(arms: int) -> tuple[Any, Sequence[Axes]]:
    """A figure with two axes side by side, without the global state of pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MtlError("plots need matplotlib: type `pip install 'mtlcore[study]'`") from error
    figure = Figure(figsize=(10, 1.2 + 0.4 * arms))
    return figure, figure.subplots(1, 2)
