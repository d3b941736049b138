"""Paired comparisons: against published numbers, against Holm's procedure by hand, and properties.

Published: R's `t.test(extra ~ group, data = sleep, paired = TRUE)` (Student's own sleep data) and
R's `power.t.test(type = "one.sample")`.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlcore import MtlError
from mtlcore.study.statistics import (
    Pair,
    Spread,
    compare_arms,
    compare_pairs,
    paired,
    pairs_to_decide,
    spread,
)

DRUG_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
DRUG_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
T_95 = {2: 12.7062, 3: 4.30265, 5: 2.77645, 10: 2.26216}  # n -> t(0.975, n - 1), Student's table


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(values))


def studies(arms: int = 5):
    """Arm -> seed -> metric: a baseline and some arms, with three to six seeds."""
    value = st.integers(0, 4000).map(lambda x: x / 64)  # sums of these are exact
    seeds = st.integers(3, 6)
    return seeds.flatmap(
        lambda n: st.lists(
            st.lists(value, min_size=n, max_size=n).map(by_seed), min_size=2, max_size=arms
        ).map(lambda found: {f"arm{i}": arm for i, arm in enumerate(found)})
    )


# ------------------------------------------------------------ pinned numbers


def test_a_paired_comparison_has_the_numbers_that_r_gives() -> None:
    values = {"one": by_seed(DRUG_1), "two": by_seed(DRUG_2)}
    (found,) = compare_arms(values, "two", higher_is_better=True)
    assert found.difference.mean == pytest.approx(-1.58)
    assert found.p == found.p_holm == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert (found.verdict, found.text, found.more_seeds) == ("worse", "worse", None)


@pytest.mark.parametrize("n", T_95)
def test_the_interval_of_a_mean_is_that_of_students_table(n) -> None:
    values = np.random.default_rng(n).normal(70, 2, n)
    found = spread(values.tolist())
    half = T_95[n] * np.std(values, ddof=1) / math.sqrt(n)
    assert (found.n, found.mean) == (n, pytest.approx(values.mean()))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), rel=1e-5
    )


@pytest.mark.parametrize(
    ("gap", "level", "pairs"),
    [
        (0.5, 0.95, 34),
        (1, 0.95, 10),
        (2, 0.95, 5),
        (0.2, 0.95, 199),
        # With so large a gap, scipy has no value for the other tail. Drawn: 3 pairs decide 53 %.
        (5, 0.99, 4),
        (20, 0.99, 3),
    ],
)
def test_the_pairs_that_a_gap_needs_are_those_of_r(gap, level, pairs) -> None:
    assert pairs_to_decide(3 * gap, 3.0, level) == pairs
    assert pairs_to_decide(-3 * gap, 3.0, level) == pairs


def test_the_planned_number_of_pairs_decides_four_times_in_five() -> None:
    """Independent of scipy's noncentral t: the rule is tried on drawn differences."""
    rng = np.random.default_rng(0)
    share = {}
    for n in (pairs_to_decide(1.0, 1.0, 0.95), pairs_to_decide(1.0, 1.0, 0.95) - 1):
        x = rng.normal(1.0, 1.0, (40_000, n))
        share[n] = np.mean(
            np.abs(x.mean(1)) > {9: 2.30600, 10: 2.26216}[n] * x.std(1, ddof=1) / math.sqrt(n)
        )
    assert share[9] < 0.8 < share[10] < 0.82


# ------------------------------------------------------------ Holm


def textbook_holm(p: list[float]) -> list[float]:
    """Holm (1979), as R's p.adjust writes it."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate((len(p) - np.arange(len(p))) * np.asarray(p)[order])
    found = np.empty(len(p))
    found[order] = np.minimum(1, adjusted)
    return found.tolist()


@given(studies())
def test_verdicts_are_those_of_holm_and_agree_with_the_intervals(values) -> None:
    compared = compare_arms(values, "arm0", higher_is_better=True)
    p = [1.0 if c.p is None else c.p for c in compared]
    for c, expected in zip(compared, textbook_holm(p)):
        if c.p is None:
            assert (c.p_holm, c.low, c.high, c.decided) == (None, None, None, False)
            continue
        assert c.p_holm == pytest.approx(expected)
        assert c.low <= c.difference.low
        assert c.high >= c.difference.high
        assert c.decided == (not c.low <= 0 <= c.high)
        assert c.decided == (c.p_holm <= 0.05)
        assert c.verdict == ("not decided" if c.low <= 0 <= c.high else c.verdict)
        assert c.decided == (not c.text.startswith("not decided"))


@given(studies(), st.randoms(use_true_random=False))
def test_the_order_of_the_arms_does_not_matter(values, random) -> None:
    shuffled = random.sample(list(values), len(values))
    before = {c.arm: c for c in compare_arms(values, "arm0", True)}
    after = {c.arm: c for c in compare_arms({a: values[a] for a in shuffled}, "arm0", True)}
    assert before == after


@given(studies())
def test_swapping_arm_and_baseline_or_the_direction_swaps_the_verdict(values) -> None:
    swap = {"better": "worse", "worse": "better", "not decided": "not decided"}
    pairs = [Pair(a, "arm0", v, values["arm0"], True) for a, v in values.items() if a != "arm0"]
    swapped = [Pair(p.baseline, p.arm, p.other, p.mine, True) for p in pairs]
    lower = [Pair(p.arm, p.baseline, p.mine, p.other, False) for p in pairs]
    for c, s, d in zip(compare_pairs(pairs), compare_pairs(swapped), compare_pairs(lower)):
        assert c.difference.mean == -s.difference.mean
        assert (c.p_holm, c.more_seeds) == (s.p_holm, s.more_seeds)
        assert swap[c.verdict] == s.verdict == d.verdict
        if c.low is not None:
            assert (c.low, c.high) == pytest.approx((-s.high, -s.low))


@given(studies(), st.sampled_from([0.01, 0.25, 100.0]))
def test_the_unit_of_the_metric_does_not_matter(values, scale) -> None:
    scaled = {arm: {s: scale * x for s, x in v.items()} for arm, v in values.items()}
    for c, s in zip(compare_arms(values, "arm0", True), compare_arms(scaled, "arm0", True)):
        assert s.difference.mean == pytest.approx(scale * c.difference.mean)
        assert (s.verdict, s.more_seeds, s.reason) == (c.verdict, c.more_seeds, c.reason)
        if c.low is not None:
            assert (s.low, s.high) == pytest.approx((scale * c.low, scale * c.high), abs=1e-9)


@given(studies(6))
def test_a_further_arm_never_narrows_an_interval_and_never_decides_one(values) -> None:
    *few, _ = values
    if len(few) < 2:
        return
    before = compare_arms({arm: values[arm] for arm in few}, "arm0", True)
    for c, more in zip(before, compare_arms(values, "arm0", True)):
        if c.low is not None:
            assert more.low <= c.low
            assert more.high >= c.high
            assert more.p_holm >= c.p_holm
        assert more.verdict in (c.verdict, "not decided")


# ------------------------------------------------------------ what can't be tested


CASES = {
    "one pair of runs has no spread": ({0: 0.9}, {0: 0.8}),
    "no seed in common": ({0: 0.9}, {1: 0.8}),
    "seed 1 has no result": (
        {0: 0.9, 1: math.nan, 2: 0.92, 3: 0.9},
        {0: 0.1, 1: 0.8, 2: 0.13, 3: 0.1},
    ),
    "seeds 0, 1 have no result": ({0: 0.9, 1: -math.inf, 2: 0.9}, {0: math.nan, 1: 0.8, 2: 0.8}),
    "seed 3 has no result": (
        {0: 0.9, 1: 0.91, 2: 0.92, 3: math.nan},  # the other arm has no such seed
        {0: 0.1, 1: 0.12, 2: 0.13},
    ),
    # 0.92 - 0.91 and 0.72 - 0.71 differ in the last bit.
    "the differences are equal for all seeds, so they have no spread": (
        {0: 0.92, 1: 0.72},
        {0: 0.91, 1: 0.71},
    ),
}


@pytest.mark.parametrize("reason", CASES)
@pytest.mark.filterwarnings("error")
def test_what_has_no_spread_or_diverged_is_not_decided_and_says_why(reason) -> None:
    mine, other = CASES[reason]
    (found,) = compare_arms({"arm": mine, "base": other}, "base", higher_is_better=True)
    assert (found.verdict, found.text) == ("not decided", f"not decided: {reason}")
    assert (found.p, found.p_holm, found.low, found.high, found.more_seeds) == (None,) * 5


def test_an_arm_that_cannot_be_tested_counts_in_the_correction() -> None:
    three = {"arm": by_seed(DRUG_1), "base": by_seed(DRUG_2), "later": {}}
    found = compare_arms(three, "base", higher_is_better=True)
    assert found[0].p_holm == pytest.approx(2 * 0.002833, abs=1e-6)
    assert (found[1].difference.n, found[1].p_holm) == (0, None)
    assert math.isnan(found[1].difference.mean)


def test_seeds_that_only_one_arm_has_are_not_compared() -> None:
    found = paired({0: 3.0, 1: 5.0, 7: 100.0}, {0: 1.0, 1: 2.0, 9: -100.0})
    assert (found.n, found.mean) == (2, 2.5)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert math.isnan(spread([1.0, math.inf]).mean)
    assert spread([2.0]) == Spread(1, 2.0, None, None, None)
    assert spread([2.0, 2.0]) == Spread(2, 2.0, 0.0, 2.0, 2.0)


def test_an_undecided_gap_says_how_many_seeds_would_decide_it() -> None:
    values = {"arm": by_seed([1.0, 0.0, 2.0]), "base": by_seed([0.0, 0.0, 0.0])}
    (found,) = compare_arms(values, "base", higher_is_better=True)
    assert found.difference.sd == 1
    assert found.text == "not decided: about 7 more seeds would decide a gap of this size"
    values["arm"] = by_seed([1.0, -1.0, 0.0])
    (found,) = compare_arms(values, "base", higher_is_better=True)
    assert found.text == "not decided: more than 1000 seeds would be needed"


def test_an_unknown_baseline_and_a_level_that_is_no_share_are_errors() -> None:
    with pytest.raises(MtlError, match=r"baseline 'bas' is no arm; did you mean 'base'"):
        compare_arms({"base": {}}, "bas", True)
    with pytest.raises(MtlError, match="level = 95"):
        compare_arms({"a": {}, "b": {}}, "a", True, level=95)


def test_without_scipy_the_message_says_what_to_type(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MtlError, match=r"pip install 'mtlcore\[study\]'"):
        spread([1.0, 2.0])


def test_numbers_are_shown_with_their_spread_and_sign() -> None:
    found = spread([0.0, 1.0])
    assert (found.shown(1), found.signed(1)) == ("0.5 +- 0.7", "+0.5 [-5.9, +6.9]")
    assert (spread([1.0]).shown(), spread([-1.0]).signed()) == ("1.00", "-1.00")
