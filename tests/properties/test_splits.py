"""Properties of splits: whole groups, proportional strata, nested subsets of labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlcore import Categories
from mtlcore.data.splits import Rules, assign, cut, generator, is_labeled, strata_of, subset, thin

strata = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(
    lambda x: np.array(x, dtype=np.int64)
)
seeds = st.integers(0, 2**40)
shares = st.floats(0.01, 0.99)


def names(n: int) -> np.ndarray:
    return np.array([f"sample {i:04d}" for i in range(n)], dtype=str)


def per_stratum(codes: np.ndarray, chosen: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return stratum -> (number of chosen samples, number of samples)."""
    return {
        int(s): (int(chosen[codes == s].sum()), int((codes == s).sum())) for s in np.unique(codes)
    }


@given(codes=strata, share=shares, seed=seeds)
def test_a_cut_of_single_samples_takes_its_share_of_every_stratum_to_within_one_sample(
    codes, share, seed
):
    chosen = cut(codes, np.arange(len(codes)), share, generator(seed))
    for got, there in per_stratum(codes, chosen).values():
        assert abs(got - share * there) <= 1 + 1e-6


@given(codes=strata, share=shares, seed=seeds, data=st.data())
def test_a_cut_never_divides_a_group_and_leaves_no_part_empty(codes, share, seed, data):
    n = len(codes)
    groups = np.array(data.draw(st.lists(st.integers(0, 20), min_size=n, max_size=n)))
    chosen = cut(codes, groups, share, generator(seed))
    assert not set(groups[chosen]) & set(groups[~chosen])
    if len(set(groups)) > 1:
        assert 0 < chosen.sum() < n


@given(codes=strata, seed=seeds)
def test_a_share_of_0_chooses_nothing_and_a_share_of_1_everything(codes, seed):
    groups = np.arange(len(codes))
    assert not cut(codes, groups, 0.0, generator(seed)).any()
    assert cut(codes, groups, 1.0, generator(seed)).all()


def test_a_cut_of_equal_groups_takes_its_share_of_the_samples():
    groups = np.repeat(np.arange(100), 20)
    chosen = cut(np.zeros(2000, dtype=np.int64), groups, 0.1, generator(0))
    assert chosen.sum() == 200


@given(codes=strata, seed=seeds, data=st.data())
def test_subsets_are_nested_stratified_and_contain_every_stratum(codes, seed, data):
    small, large = sorted(data.draw(st.tuples(shares, shares)))
    few, many = (subset(codes, share, generator(seed)) for share in (small, large))
    assert not (few & ~many).any()
    for got, there in per_stratum(codes, few).values():
        assert got >= 1
        assert abs(got - small * there) <= 1
    assert subset(codes, 1.0, generator(seed)).all()
    assert not subset(codes, 0.0, generator(seed)).any()


@given(codes=strata, limit=st.integers(1, 220), seed=seeds)
def test_a_limit_is_met_exactly_and_in_proportion(codes, limit, seed):
    n = len(codes)
    chosen = thin(codes, limit, generator(seed))
    assert chosen.sum() == min(limit, n)
    for got, there in per_stratum(codes, chosen).values():
        assert abs(got - min(1.0, limit / n) * there) <= 1 + 1e-9


@given(codes=strata, seed=seeds, validation=shares, labels=shares, data=st.data())
def test_the_order_of_the_samples_does_not_matter(codes, seed, validation, labels, data):
    n = len(codes)
    order = np.array(data.draw(st.permutations(range(n))))
    rules = Rules(seed, "faces", validation, labels)
    one, other = assign(rules, names(n), codes), assign(rules, names(n)[order], codes[order])
    assert one.split[order].tolist() == other.split.tolist()
    assert one.labeled[order].tolist() == other.labeled.tolist()


@given(codes=strata, seed=seeds, data=st.data())
def test_groups_are_never_divided_and_only_train_loses_labels(codes, seed, data):
    n = len(codes)
    groups = np.array(data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n)))
    found = assign(Rules(seed, "faces", 0.2, 0.3), names(n), codes, group=Categories.of(groups))
    for group in set(groups):
        assert len(set(found.split[groups == group])) == 1
    assert set(found.split) <= {"train", "validation", "test"}
    assert found.labeled[found.split != "train"].all()


@given(codes=strata, seed=seeds, share=shares)
def test_the_share_of_labels_changes_no_split(codes, seed, share):
    full, low = (
        assign(Rules(seed, "faces", 0.1, labels), names(len(codes)), codes)
        for labels in (1.0, share)
    )
    assert full.split.tolist() == low.split.tolist()


@given(codes=strata, seed=seeds, limit=st.integers(1, 50))
def test_a_limit_only_removes_samples(codes, seed, limit):
    full, few = (
        assign(Rules(seed, "faces", 0.2, 1.0, most), names(len(codes)), codes)
        for most in (None, limit)
    )
    kept = few.split != ""
    assert few.split[kept].tolist() == full.split[kept].tolist()
    for part in ("train", "validation", "test"):
        assert (few.split == part).sum() == min(limit, (full.split == part).sum())


def test_official_splits_do_not_change_and_validation_is_cut_from_train_alone():
    official = Categories.of(np.array(["train"] * 100 + ["val"] * 20 + ["test"] * 30))
    found = assign(Rules(0, "faces", 0.1), names(150), np.zeros(150, dtype=np.int64), official)
    assert found.split[100:].tolist() == official[100:].tolist()
    assert (found.split[:100] == "validation").sum() == 10
    assert (found.split[:100] == "train").sum() == 90


def test_nothing_is_cut_from_train_if_the_dataset_has_its_own_validation_split():
    official = Categories.of(np.array(["train"] * 50 + ["validation"] * 10))
    assert (
        assign(
            Rules(0, "faces", 0.1), names(60), np.zeros(60, dtype=np.int64), official
        ).split.tolist()
        == official.tolist()
    )


def test_without_official_splits_a_fifth_is_test():
    found = assign(Rules(0, "faces", 0.0), names(1000), np.repeat(np.arange(4), 250))
    assert [(found.split[i : i + 250] == "test").sum() for i in range(0, 1000, 250)] == [50] * 4


def test_other_seeds_and_other_datasets_draw_other_samples():
    codes = np.zeros(400, dtype=np.int64)
    rules = [Rules(0, "a"), Rules(1, "a"), Rules(0, "b")]
    found = {tuple(assign(r, names(400), codes).split.tolist()) for r in rules}
    assert len(found) == 3


def test_the_draws_are_the_same_on_every_machine():
    found = assign(Rules(7, "faces", 0.2, 0.5), names(20), np.repeat([0, 1], 10))
    letters = {"train": "T", "validation": "v", "test": "e"}
    drawn = "".join(
        letters[s] if labeled else "-" for s, labeled in zip(found.split.tolist(), found.labeled)
    )
    assert drawn == "e-evv-TT-TTeT-T-e-Tv"


def test_numbers_are_stratified_by_deciles_of_their_first_column():
    values = np.stack([np.arange(100.0), -np.arange(100.0)], 1)
    assert strata_of(values, 100).tolist() == [i // 10 for i in range(100)]


def test_missing_values_are_a_stratum_of_their_own():
    assert len(set(strata_of(Categories.of(np.array(["", "a", "", "b"])), 4).tolist())) == 3
    found = strata_of(np.array([np.nan, 1.0, 2.0, np.nan]), 4)
    assert found[0] == found[3] == 10
    assert strata_of(np.full(3, np.nan), 3).tolist() == [10] * 3


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Categories.of(np.array(["a", ""])), [True, False]),
        (np.array([1.0, np.nan]), [True, False]),
        (np.array([[np.nan, 1.0], [np.nan, np.nan]]), [True, False]),
        (np.array([3, 4]), [True, True]),
    ],
)
def test_a_sample_is_labeled_unless_all_of_its_values_are_missing(annotation, expected):
    assert is_labeled(annotation).tolist() == expected
