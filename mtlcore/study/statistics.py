"""Means over seeds, paired differences, and what they decide.

A difference is paired by seed: the runs of two arms with the same seed share data order, augmented
views and initial weights, so their difference varies less than the metrics do.

- Intervals are Student's t intervals of the mean (Student 1908).
- Where several arms are compared, Holm's step-down procedure (Holm 1979, "A simple sequentially
  rejective multiple test procedure") keeps the chance of any wrong "better" or "worse" in the whole
  table at 1 - level. The interval of each difference has the level of the step at which Holm's
  procedure tests it, or stops. So it excludes 0 exactly where the procedure rejects.
- A t test needs a spread. One pair has none. Differences that are all equal have none either: a
  metric counts samples, so two arms can differ by the same number of samples with each seed by
  chance. Both are never decided.
- A seed that diverged has no result (nan). It is not left out in silence: an arm that is best where
  it did not diverge is not better. With such a seed in either arm, nothing is decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Literal

from attrs import frozen

from ..errors import MtlError, nearest

Verdict = Literal["better", "worse", "not decided"]

CONFIDENCE = 0.95
POWER = 0.8
"""The chance to decide a gap that `more_seeds` is planned for; 0.8 is Cohen's convention (1988)."""
MOST_SEEDS = 1000
"""A gap that needs more seeds than this is as good as none."""
ROUNDING = 1e-6
"""Differences equal up to this share of the metrics are equal: metrics have 24 bits."""


@frozen
class Spread:
    """Mean and spread of `n` values.

    mean: nan without values, or where one is not finite.
    sd: standard deviation (n - 1); None below two values, or without a mean.
    low, high: t interval of the mean; None below two values, or without a mean.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    def shown(self, digits: int = 2) -> str:
        """The mean and the standard deviation: "71.20 +- 0.41"."""
        if self.sd is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} +- {self.sd:.{digits}f}"

    def signed(self, digits: int = 2) -> str:
        """The mean with its sign, and its interval: "+2.40 [+0.10, +4.70]"."""
        return _signed(self.mean, self.low, self.high, digits)


@frozen
class Pair:
    """Two arms to compare by one metric. mine, other: seed -> metric.

    rounding: how far a metric may be off, in its unit, because it was rounded.
    """

    arm: str
    baseline: str
    mine: Mapping[int, float]
    other: Mapping[int, float]
    higher_is_better: bool
    rounding: float = 0.0


@frozen
class Comparison:
    """What a paired comparison says, corrected for all comparisons made with it.

    difference: arm - baseline at the seeds that both have, with its uncorrected interval. Seeds
    that diverged are left out of it.
    p: two-sided, of the paired t test. p_holm: corrected by Holm.
    low, high: corrected interval of the difference.
    more_seeds: about how many more seeds would decide a gap of this size, with a chance of 0.8;
    None if decided, or if it is over 1000.
    reason: why nothing can be tested; "" otherwise. Where it says something, the fields above are
    None, and the verdict is "not decided".
    """

    arm: str
    baseline: str
    difference: Spread
    p: float | None
    p_holm: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    more_seeds: int | None = None
    reason: str = ""

    @property
    def decided(self) -> bool:
        """Whether the corrected interval excludes 0."""
        return self.verdict != "not decided"

    def signed(self, digits: int = 2) -> str:
        """The difference with its sign, and its corrected interval."""
        return _signed(self.difference.mean, self.low, self.high, digits)

    @property
    def text(self) -> str:
        """The verdict, and what it would take to decide."""
        if self.decided:
            return self.verdict
        if self.reason:
            return f"not decided: {self.reason}"
        if self.more_seeds is None:
            return f"not decided: more than {MOST_SEEDS} seeds would be needed"
        seeds = "seed" if self.more_seeds == 1 else "seeds"
        return f"not decided: about {self.more_seeds} more {seeds} would decide a gap of this size"


def spread(values: Sequence[float], level: float = CONFIDENCE) -> Spread:
    """Return mean, standard deviation (n - 1) and t interval of the mean.

    Where a value is not finite, the mean is nan, and nothing else is known.
    """
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return Spread(n, math.nan, None, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Spread(1, mean, None, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _half_width(n, sd, level)
    return Spread(n, mean, sd, mean - half, mean + half)


def paired(
    mine: Mapping[int, float], other: Mapping[int, float], level: float = CONFIDENCE
) -> Spread | None:
    """Return the spread of the differences at the seeds that both have; None if there are none."""
    seeds = sorted(mine.keys() & other.keys())
    if not seeds:
        return None
    return spread([mine[seed] - other[seed] for seed in seeds], level)


def compare_arms(
    values: Mapping[str, Mapping[int, float]],
    baseline: str,
    higher_is_better: bool,
    level: float = CONFIDENCE,
) -> list[Comparison]:
    """Compare each arm with the baseline, corrected by Holm for all of them.

    values: arm -> seed -> metric; nan where a seed diverged. Pass every arm that the table shows,
    and those without a run yet as {}: the correction counts them.
    level: of the corrected intervals, in (0, 1).
    """
    if baseline not in values:
        raise MtlError(f"the baseline {baseline!r} is no arm; {nearest(baseline, values)}")
    pairs = [
        Pair(arm, baseline, mine, values[baseline], higher_is_better)
        for arm, mine in values.items()
        if arm != baseline
    ]
    return compare_pairs(pairs, level)


def compare_pairs(pairs: Sequence[Pair], level: float = CONFIDENCE) -> list[Comparison]:
    """Compare each pair, corrected by Holm for all of them; in the order of `pairs`."""
    if not 0 < level < 1:
        raise MtlError(f"level = {level!r}: expected a number between 0 and 1, such as 0.95")
    tests = [_test(pair) for pair in pairs]
    orders = [test.order for test in tests]
    divisors, p_holm = _divisors(orders, 1 - level), _p_holm(orders)
    return [_comparison(test, divisors[test.order], p_holm[test.order], level) for test in tests]


def pairs_to_decide(gap: float, sd: float, level: float) -> int | None:
    """Return the number of pairs with which a paired t test finds a true gap with chance `POWER`.

    It is the smallest n with P(|T| > t(level, n - 1)) >= POWER, where T has the noncentral t
    distribution with n - 1 degrees of freedom and noncentrality sqrt(n) gap / sd (Cohen 1988,
    "Statistical Power Analysis", chapter 2). Return None if it is over `MOST_SEEDS`.

    gap, sd: of the differences, in one unit. level: of the (corrected) interval.
    """
    if _power(MOST_SEEDS, gap, sd, level) < POWER:
        return None
    low, high = 1, MOST_SEEDS  # the power grows with n: too few, enough
    while high - low > 1:
        middle = (low + high) // 2
        if _power(middle, gap, sd, level) < POWER:
            low = middle
        else:
            high = middle
    return high


# ---------------------------------------------------------------------------------- one comparison


@frozen
class _Test:
    """The paired t test of a pair. p: None if it can't be tested; `reason` then says why."""

    pair: Pair
    difference: Spread
    p: float | None
    reason: str = ""

    @property
    def order(self) -> float:
        """p, to sort by. What can't be tested counts as a test that says nothing."""
        return 1.0 if self.p is None else self.p


def _test(pair: Pair) -> _Test:
    sides = pair.mine, pair.other
    failed = sorted({s for side in sides for s, value in side.items() if not math.isfinite(value)})
    used = sorted(pair.mine.keys() & pair.other.keys() - set(failed))
    difference = spread([pair.mine[seed] - pair.other[seed] for seed in used])
    largest = max((abs(x[s]) for x in sides for s in used), default=0.0)
    # Equal differences of metrics that were rounded have a spread of up to sqrt(8) x rounding.
    reason = _why_not(difference, failed, max(ROUNDING * largest, 3 * pair.rounding))
    if reason or difference.sd is None:
        return _Test(pair, difference, None, reason)
    t = abs(difference.mean) / (difference.sd / math.sqrt(difference.n))
    return _Test(pair, difference, float(2 * _special().stdtr(difference.n - 1, -t)))


def _why_not(difference: Spread, failed: Sequence[int], rounding: float) -> str:
    """Return why a pair can't be decided, or "". rounding: the spread of equal differences."""
    if failed:
        named = ", ".join(map(str, failed))
        return f"seeds {named} have no result" if len(failed) > 1 else f"seed {named} has no result"
    if difference.sd is None:
        return "one pair of runs has no spread" if difference.n else "no seed in common"
    if difference.sd <= rounding:
        return "the differences are equal for all seeds, so they have no spread"
    return ""


def _comparison(test: _Test, divisor: int, p_holm: float, level: float) -> Comparison:
    """Return the comparison of one test. divisor: of 1 - level, from Holm's procedure."""
    found, pair = test.difference, test.pair
    if test.p is None or found.sd is None:
        return Comparison(
            pair.arm, pair.baseline, found, None, None, None, None, "not decided", None, test.reason
        )
    corrected = 1 - (1 - level) / divisor
    half = _half_width(found.n, found.sd, corrected)
    low, high = found.mean - half, found.mean + half
    verdict: Verdict = "not decided"
    more: int | None = None
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) == pair.higher_is_better else "worse"
    else:
        needed = pairs_to_decide(found.mean, found.sd, corrected)
        more = None if needed is None else max(1, needed - found.n)
    return Comparison(pair.arm, pair.baseline, found, test.p, p_holm, low, high, verdict, more)


# ------------------------------------------------------------------------------- Holm's procedure


def _divisors(orders: Sequence[float], alpha: float) -> dict[float, int]:
    """Return p -> by how much Holm's procedure divides alpha for the tests with this p.

    The smallest p is compared with alpha / n, the next one with alpha / (n - 1), and so on, up to
    the first that is not rejected. Its divisor holds for all after it. Tests with equal p share the
    larger divisor, so their order does not matter.
    """
    found: dict[float, int] = {}
    stopped: int | None = None
    for order in sorted(set(orders)):
        remaining = sum(other >= order for other in orders)
        found[order] = stopped or remaining
        if order > alpha / found[order]:
            stopped = found[order]
    return found


def _p_holm(orders: Sequence[float]) -> dict[float, float]:
    """Return p -> p corrected by Holm: the largest of (tests from p' on) p', over all p' <= p."""
    found: dict[float, float] = {}
    largest = 0.0
    for order in sorted(set(orders)):
        remaining = sum(other >= order for other in orders)
        largest = max(largest, min(1.0, remaining * order))
        found[order] = largest
    return found


# --------------------------------------------------------------------------------- Student's t


def _half_width(n: int, sd: float, level: float) -> float:
    """Return half the width of the t interval of a mean."""
    return float(_special().stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)


def _power(n: int, gap: float, sd: float, level: float) -> float:
    """Return the chance that the interval of n pairs excludes 0, if the true gap is `gap`."""
    if n < 2:
        return 0.0
    special = _special()
    limit = special.stdtrit(n - 1, (1 + level) / 2)
    shift = abs(gap) / sd * math.sqrt(n)
    # scipy returns nan where the chance of the other tail is too small for it.
    other_tail = float(special.nctdtr(n - 1, shift, -limit))
    missed = float(special.nctdtr(n - 1, shift, limit))
    return 1 - missed + (0.0 if math.isnan(other_tail) else other_tail)


def _signed(mean: float, low: float | None, high: float | None, digits: int) -> str:
    if low is None:
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _special() -> ModuleType:
    """scipy.special, imported late: only studies need it. scipy.stats takes seconds to import."""
    try:
        from scipy import special
    except ImportError as error:
        raise MtlError("intervals need scipy: type `pip install 'mtlcore[study]'`") from error
    return special
