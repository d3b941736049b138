"""Charts as SVG, drawn by matplotlib, in the colors of the page.

A chart is drawn in placeholder colors, which are then replaced by variables of the page's style
sheet. So one chart fits light and dark. Its text stays text, in the font of the page. A chart is
360 units wide: on a phone it fills the screen, and letters keep their size.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from attrs import field, frozen

from .blocks import Chart, Table
from .numbers import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 360, 220  # units, about one CSS pixel each
UNITS_PER_INCH = 72
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 16, 42  # units: margins of the axes
LETTER = 6.2  # units: a generous width of a letter
ROW = 26  # units: height of a row with an interval
MOST_POINTS = 300  # of a series; neighbors of a longer one are averaged
WIDE = 20.0  # largest / smallest value from which on an axis is logarithmic
UNIT = (-0.04, 1.04)  # limits of an axis of probabilities: a point at 0 is whole
COLORS = 8  # of series, in the style sheet
DASHES = ("-", "--", ":", "-.")

TEXT, LINE, ACCENT, GOOD, BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {TEXT: "quiet", LINE: "line", ACCENT: "accent", GOOD: "good", BAD: "bad"}
_VARIABLES |= {f"#0600{i:02x}": f"series-{i}" for i in range(COLORS)}
_numbers = count()
"""Of charts: ids of SVG elements must be unique in a page."""


@frozen
class Series:
    """A line of a chart. x, y: numbers of equal length; y may hold NaN."""

    name: str
    x: Sequence[float] = field(repr=False)
    y: Sequence[float] = field(repr=False)


@frozen
class Interval:
    """A value with its interval. low, high: NaN if unknown. color: of `COLOR_OF_VERDICT`."""

    name: str
    value: float
    low: float
    high: float
    color: str = ACCENT


def line_chart(title: str, series: Sequence[Series], x_label: str, log: bool = False) -> Chart:
    """Draw series over x. log: a logarithmic y axis, if values span a wide range above 0."""
    with _figure(HEIGHT) as (figure, axes):
        for i, one in enumerate(series):
            x, y = _thinned(np.asarray(one.x, float), np.asarray(one.y, float))
            marker = "o" if np.isfinite(y).sum() < 3 else ""
            style = DASHES[i // COLORS % len(DASHES)]
            axes.plot(x, y, style, marker=marker, markersize=4, color=_series_color(i))
        if log and _spans(series) > WIDE:
            axes.set_yscale("log")
            _plain_numbers(axes)
        axes.set_xlabel(x_label, parse_math=False)
        svg = _svg(figure)
    legend = [one.name for one in series] if len(series) > 1 else []
    return Chart(title, svg, _line_alt(title, series), legend, _line_table(title, series, x_label))


def interval_chart(
    title: str, intervals: Sequence[Interval], label: str, zero: bool = False
) -> Chart:
    """Draw one row for each value. zero: a line at 0, for differences."""
    names = [one.name for one in intervals]
    longest = max(len(_short(name)) for name in names)
    with _figure(TOP + BOTTOM + ROW * len(intervals), 14 + LETTER * longest) as (figure, axes):
        if zero:
            axes.axvline(0, color=TEXT, linewidth=1)
        for y, one in enumerate(intervals):
            axes.plot([one.low, one.high], [y, y], "-", color=one.color, linewidth=2)
            axes.plot([one.value], [y], "D", color=one.color, markersize=5)
        axes.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(label, parse_math=False)
        axes.grid(axis="y", visible=False)
        svg = _svg(figure)
    alt = "; ".join(f"{one.name} {_with_interval(one)}" for one in intervals)
    return Chart(title, svg, f"{title}: {alt}.")


def reliability_chart(
    title: str, confidence: Sequence[float], accuracy: Sequence[float], n: Sequence[int]
) -> Chart:
    """Draw the share of right answers over the predicted probability, by bins.

    confidence, accuracy: means of each bin, in [0, 1]. n: its samples, which size its point.
    """
    with _figure(HEIGHT + 40) as (figure, axes):
        axes.plot([0, 1], [0, 1], "--", color=TEXT, linewidth=1)
        axes.plot(confidence, accuracy, "-", color=ACCENT)
        sizes = [12 + 80 * number / max(max(n, default=1), 1) for number in n]
        axes.scatter(confidence, accuracy, s=sizes, color=ACCENT, zorder=3)
        axes.set_xlim(*UNIT)
        axes.set_ylim(*UNIT)
        axes.set_xlabel("predicted probability")
        axes.set_ylabel("share that is right")
        svg = _svg(figure)
    bins = [(f"{a:.2f}", f"{b:.2f}", str(number)) for a, b, number in zip(confidence, accuracy, n)]
    columns = ("mean probability", "share that is right", "answers")
    alt = f"{title}: in {len(bins)} bins, " + "; ".join(f"{a}: {b} (n = {k})" for a, b, k in bins)
    return Chart(title, svg, alt, (), Table(title, columns, bins, folded=True))


# ---------------------------------------------------------------------------------- words


def _line_alt(title: str, series: Sequence[Series]) -> str:
    parts: list[str] = []
    for one in series:
        known = [(x, y) for x, y in zip(one.x, one.y) if np.isfinite(y)]
        if known:
            (first_x, first), (last_x, last) = known[0], known[-1]
            parts.append(
                f"{one.name} from {shown(first)} at {shown(first_x)} "
                f"to {shown(last)} at {shown(last_x)}"
            )
    return f"{title}: {'; '.join(parts) or 'no values'}."


def _line_table(title: str, series: Sequence[Series], x_label: str) -> Table:
    """First, last and extreme values: what a reader would look up in the chart."""
    rows: list[tuple[str, ...]] = []
    for one in series:
        y = np.asarray(one.y, float)
        known = y[np.isfinite(y)]
        if len(known):
            numbers = (known[0], known[-1], known.min(), known.max())
            at = [f"{shown(one.x[int(k)])}" for k in (np.nanargmin(y), np.nanargmax(y))]
            cells = [shown(number) for number in numbers]
            rows.append((one.name, *cells[:2], f"{cells[2]} ({at[0]})", f"{cells[3]} ({at[1]})"))
    columns = ("series", "first", "last", f"lowest ({x_label})", f"highest ({x_label})")
    return Table(title, columns, rows, folded=True)


def _with_interval(one: Interval) -> str:
    if not np.isfinite(one.low):
        return shown(one.value)
    return f"{shown(one.value)} ({shown(one.low)} to {shown(one.high)})"


def _short(name: str, longest: int = 26) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


# ---------------------------------------------------------------------------------- drawing


def _series_color(i: int) -> str:
    return f"#0600{i % COLORS:02x}"


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbors, so that at most `MOST_POINTS` are left. The last point stays."""
    if len(x) <= MOST_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), MOST_POINTS)
    means = np.array([_mean(y[part]) for part in parts])
    return np.array([x[part[-1]] for part in parts]), means


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


@contextmanager
def _figure(height: float, left: float = LEFT) -> Iterator[tuple[Figure, Axes]]:
    """A figure in placeholder colors, without the global state of pyplot.

    height, left: units. Margins are fixed, since a layout that measures all text takes longer than
    everything else.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mtlcore",
        "font.size": 11,
        "axes.labelsize": 11,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": LINE,
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "axes.formatter.useoffset": False,
        "axes.formatter.limits": (-3, 5),
        "axes.unicode_minus": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    with mpl.rc_context(settings):
        size = (WIDTH / UNITS_PER_INCH, height / UNITS_PER_INCH)
        figure = Figure(figsize=size)
        box = (
            left / WIDTH,
            BOTTOM / height,
            1 - (left + RIGHT) / WIDTH,
            1 - (TOP + BOTTOM) / height,
        )
        yield figure, figure.add_axes(box)


def _spans(series: Sequence[Series]) -> float:
    """The largest value over the smallest one; 0 where a value is not above 0."""
    values = np.concatenate([np.asarray(one.y, float) for one in series])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() <= 0:
        return 0.0
    return float(values.max() / values.min())


def _plain_numbers(axes: Axes) -> None:
    """Write ticks of a logarithmic axis as 3, 10, 30, and not as powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _svg(figure: Figure) -> str:
    """The figure as an SVG element that takes its colors, its font and its width from the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    # Screen readers get the `alt` of the chart: the element around it has it.
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var(--{variable})")
    prefix = f"c{next(_numbers)}-"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
