"""The samples of a step depend on (seed, step) alone, however many ranks share the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_datasets import InMemory, cycle, experiment, numbers_of

from mtlcore import Classification, MtlError
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import RunData, open_data
from mtlcore.data.loader import DirectLoader
from mtlcore.data.sampler import Sampler, shares

CPU = torch.device("cpu")


def opened(entries: dict[str, DataEntry], **options) -> tuple[RunData, Sampler]:
    # Explicit classes, since a few samples may have one class alone.
    tasks = {"kind": Classification(reads="kind", classes=("a", "b", "c", "d"))}
    resolved, data = open_data(experiment(entries, **{"tasks": tasks, "validation": 0.0} | options))
    return data, Sampler(data, resolved)


def loader_of(data: RunData, sampler: Sampler) -> DirectLoader:
    return DirectLoader(data, sampler, CPU)


def train_of(n: int, names: str = "ab", **options) -> InMemory:
    """Return n training samples with labels in turn."""
    return InMemory(n, cycle(names, n), split=("train",) * n, **options)


def labeled_samples(sampler: Sampler, steps: range) -> list[int]:
    return [
        sample
        for s in steps
        for micro_batch in sampler.step(s)
        for sample in micro_batch.samples[: micro_batch.labeled].tolist()
    ]


@given(
    n=st.integers(2, 60),
    batch=st.integers(1, 12),
    seed=st.integers(0, 99),
    epochs=st.integers(1, 3),
)
def test_every_labeled_sample_occurs_once_in_each_epoch(n, batch, seed, epochs):
    data, sampler = opened({"a": DataEntry(train_of(n))}, seed=seed, batch_size=batch)
    samples = labeled_samples(sampler, range(epochs * sampler.steps_per_epoch + 1))
    for epoch in range(epochs):
        assert sorted(samples[epoch * n : (epoch + 1) * n]) == data.split["train"].tolist()
    assert sampler.steps_per_epoch == -(-n // batch)


def test_epochs_are_shuffled_differently():
    _, sampler = opened({"a": DataEntry(train_of(40))}, batch_size=40)
    first, second = (sampler.step(s)[0].samples.tolist() for s in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second != sorted(second)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 50), st.booleans())
def test_micro_batches_have_equal_sizes_and_add_up_to_the_counts_of_the_step(
    micro_batches, size, step, keep
):
    entries = {
        "a": DataEntry(train_of(30), labels=0.5, unlabeled="keep" if keep else "drop"),
        "b": DataEntry(train_of(11, prefix="b")),
    }
    batch = 2 * size * micro_batches
    _, sampler = opened(entries, batch_size=batch, micro_batches=micro_batches)
    divided = sampler.step(step)
    assert len(divided) == micro_batches
    assert {(len(m.samples), m.labeled) for m in divided} == {(len(divided[0].samples), 2 * size)}
    counts = sampler.counts(step)
    assert counts.samples == sum(len(m.samples) for m in divided)
    assert counts.unlabeled_samples == sum(len(m.samples) - m.labeled for m in divided)


def test_two_micro_batches_are_the_halves_of_the_whole_batch():
    entries = {"a": DataEntry(train_of(32))}
    whole = opened(entries, batch_size=8)[1].step(5)[0].samples
    halves = opened(entries, micro_batches=2, batch_size=8)[1].step(5)
    assert np.concatenate([p.samples for p in halves]).tolist() == whole.tolist()


@given(steps=st.lists(st.integers(0, 400), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_the_samples_are_a_function_of_seed_and_step_alone(steps, seed):
    entries = {"a": DataEntry(train_of(17), labels=0.5, unlabeled="keep")}
    _, visited = opened(entries, seed=seed)
    for step in steps:
        _, fresh = opened(entries, seed=seed)
        assert [p.samples.tolist() for p in visited.step(step)] == [
            p.samples.tolist() for p in fresh.step(step)
        ]


def test_other_seeds_draw_other_samples():
    entries = {"a": DataEntry(train_of(64))}
    drawn = {
        tuple(opened(entries, seed=seed, batch_size=16)[1].step(0)[0].samples.tolist())
        for seed in range(5)
    }
    assert len(drawn) == 5


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    micro_batches=st.integers(1, 3),
    balanced=st.booleans(),
)
def test_every_micro_batch_holds_the_same_composition(sizes, micro_batches, balanced):
    entries = {
        f"s{i}": DataEntry(train_of(n, prefix=f"s{i}"), weight=1.0 + i) for i, n in enumerate(sizes)
    }
    mix = "balanced" if balanced else "proportional"
    data, sampler = opened(
        entries, batch_size=8 * micro_batches, micro_batches=micro_batches, mix=mix
    )
    made = {
        tuple(np.bincount(data.dataset[p.samples], minlength=len(sizes)))
        for s in range(9)
        for p in sampler.step(s)
    }
    assert len(made) == 1
    assert min(made.pop()) >= 1


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6), extra=st.integers(0, 60))
def test_shares_add_up_follow_the_weights_and_are_at_least_one(weights, extra):
    total = len(weights) + extra
    found = shares(total, weights)
    assert sum(found) == total
    assert min(found) >= 1
    exact = np.array(weights) / sum(weights) * total
    if exact.min() >= 1:
        assert np.abs(np.array(found) - exact).max() < 1 + 1e-9


def test_shares_use_the_largest_remainder():
    assert shares(10, [1, 1, 1]) == [4, 3, 3]
    assert shares(8, [50.0, 30.0, 20.0]) == [4, 2, 2]  # exactly 4.0, 2.4, 1.6
    assert shares(8, [1000.0, 1.0, 1.0]) == [6, 1, 1]


@pytest.mark.parametrize(
    ("mix", "weight", "expected"),
    [("proportional", 1.0, [6, 2]), ("balanced", 1.0, [4, 4]), ("balanced", 3.0, [2, 6])],
)
def test_the_mix_of_two_datasets(mix, weight, expected):
    entries = {
        "a": DataEntry(train_of(60)),
        "b": DataEntry(train_of(20, prefix="b"), weight=weight),
    }
    data, sampler = opened(entries, batch_size=8, mix=mix)
    assert np.bincount(data.dataset[sampler.step(3)[0].samples]).tolist() == expected


def test_unlabeled_samples_follow_the_labeled_ones():
    entries = {"a": DataEntry(train_of(40), labels=0.25, unlabeled="keep")}
    data, sampler = opened(entries, batch_size=4, unlabeled_batch=6, micro_batches=2)
    for step in range(20):
        for micro_batch in sampler.step(step):
            assert (micro_batch.labeled, len(micro_batch.samples)) == (2, 5)
            assert data.labeled[micro_batch.samples].tolist() == [True] * 2 + [False] * 3
    assert sampler.counts(0).samples == 10
    assert sampler.counts(0).unlabeled_samples == 6
    assert sampler.steps_per_epoch == 3  # 10 labeled samples
    seen = Counter(
        sample
        for s in range(5)
        for p in sampler.step(s)
        for sample in p.samples[p.labeled :].tolist()
    )
    assert set(seen.values()) == {1}  # 30 unlabeled samples, once each


def test_as_many_unlabeled_as_labeled_samples_by_default():
    _, sampler = opened({"a": DataEntry(train_of(40), labels=0.25, unlabeled="keep")}, batch_size=4)
    assert sampler.counts(0).unlabeled_samples == 4


def test_dropped_samples_leave_no_unlabeled_ones():
    _, sampler = opened({"a": DataEntry(train_of(40), labels=0.25)}, batch_size=4)
    assert sampler.counts(0) == type(sampler.counts(0))({"kind": 4}, 4, 0)


def test_labeled_samples_do_not_change_when_unlabeled_ones_are_kept():
    arms = [
        {"a": DataEntry(train_of(40), labels=0.25, unlabeled=kept)} for kept in ("keep", "drop")
    ]
    shown = []
    for arm in arms:
        data, sampler = opened(arm, batch_size=4)
        micro_batches = [sampler.step(s)[0] for s in range(6)]
        shown.append([data.keys(p.samples[: p.labeled]).tolist() for p in micro_batches])
    assert shown[0] == shown[1]


def test_pretraining_draws_all_samples_as_unlabeled_ones():
    data, sampler = opened({"a": DataEntry(train_of(24))}, tasks={}, batch_size=8, micro_batches=2)
    assert sampler.steps_per_epoch == 3
    samples = [sample for s in range(3) for p in sampler.step(s) for sample in p.samples.tolist()]
    assert sorted(samples) == data.split["train"].tolist()
    assert {p.labeled for p in sampler.step(0)} == {0}
    batch = loader_of(data, sampler).batch(0, 1)
    assert (batch.labeled_samples, batch.targets, batch.counts.unlabeled_samples) == (0, {}, 8)


def test_counts_are_those_of_the_whole_step_by_task():
    a = InMemory(30, cycle("ab", 30), split=("train",) * 30)
    b = InMemory(30, cycle("xyz", 30), "sort", split=("train",) * 30, prefix="b")
    tasks = {"kind": Classification(reads="kind"), "sort": Classification(reads="sort")}
    entries = {"a": DataEntry(a), "b": DataEntry(b)}
    data, sampler = opened(entries, tasks=tasks, batch_size=12, micro_batches=3)
    loader = loader_of(data, sampler)
    assert sampler.counts(7).labeled == {"kind": 6, "sort": 6}
    present = [loader.batch(7, micro_batch).present for micro_batch in range(3)]
    assert {k: sum(int(p[k].sum()) for p in present) for k in tasks} == sampler.counts(7).labeled


def test_a_batch_holds_the_images_and_labels_of_its_samples():
    a = train_of(300, "abc")
    data, sampler = opened({"a": DataEntry(a)}, batch_size=16, micro_batches=2)
    batch = loader_of(data, sampler).batch(11, 1)
    samples = sampler.step(11)[1].samples
    numbers = numbers_of(batch.images)
    assert numbers == [int(key) for key in data.keys(samples)]
    assert batch.targets["kind"].tolist() == [n % 3 for n in numbers]
    assert batch.present["kind"].all()
    assert batch.images.dtype == torch.uint8
    assert batch.labeled_samples == 8
    assert batch.counts is sampler.counts(11)


@pytest.mark.parametrize(("batch", "nearest"), [(10, "8 or 12"), (3, "4"), (13, "12 or 16")])
def test_a_batch_that_cannot_be_divided_is_an_error_with_the_nearest_sizes(batch, nearest):
    with pytest.raises(
        MtlError,
        match=rf"input.batch_size = {batch} can't be divided evenly among 4 micro-batches "
        rf"\(train\.micro_batches.*; the nearest valid values: {nearest}$",
    ):
        opened({"a": DataEntry(train_of(30))}, micro_batches=4, batch_size=batch)


def test_an_unlabeled_batch_that_cannot_be_divided_is_refused_too():
    entry = DataEntry(train_of(30), labels=0.5, unlabeled="keep")
    with pytest.raises(MtlError, match=r"input\.unlabeled_batch = 3 can't be divided evenly"):
        opened({"a": entry}, micro_batches=2, batch_size=4, unlabeled_batch=3)


def test_a_micro_batch_too_small_for_its_datasets_is_refused():
    entries = {name: DataEntry(train_of(30, prefix=name)) for name in "abc"}
    with pytest.raises(MtlError, match=r"too few for 3 datasets \(a, b, c\): set it to at least 6"):
        opened(entries, batch_size=4, micro_batches=2)


def test_training_without_any_label_is_refused():
    unlabeled = InMemory(10, ("",) * 10, split=("train",) * 10)
    tasks = {"kind": Classification(reads="kind", classes=("a", "b"))}
    with pytest.raises(MtlError, match=r"no training sample has a label of any task \(kind\)"):
        opened({"a": DataEntry(unlabeled, unlabeled="keep")}, tasks=tasks)
