"""Numbers as a reader wants them: few digits, no false precision."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .bootstrap import Estimate


def shown(value: float) -> str:
    """A number with four significant digits: "0.7312", "12.4", "1,204", "3.1e-05", "-"."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}"


def with_interval(found: Estimate) -> str:
    """A metric with its interval: "0.7312 (0.7104 to 0.7498)"."""
    if not math.isfinite(found.low):
        return shown(found.value)
    return f"{shown(found.value)} ({shown(found.low)} to {shown(found.high)})"


def percent(share: float) -> str:
    """A share in [0, 1] as "73.1 %", with a space that does not wrap."""
    return f"{100 * share:.1f}\u00a0%" if math.isfinite(share) else "-"


def seconds(value: float) -> str:
    """A duration: "41 s", "12 min", "3 h 5 min"."""
    if value < 120:
        return f"{value:.0f} s"
    minutes = round(value / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def joined(names: Iterable[str]) -> str:
    """Names in one line, or "none"."""
    return ", ".join(names) or "none"
