"""`input.sampling`: exact counts of classes and of weighted samples, as a function of the step."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_datasets import InMemory, experiment

from mtlcore import Classification, MtlError, Multilabel, Regression
from mtlcore.config import checks
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import RunData, open_data
from mtlcore.data.sampler import Sampler

NAMES = "abcdefg"


def opened(entries, sampling="balanced", tasks=None, **options) -> tuple[RunData, Sampler]:
    tasks = {"kind": Classification(reads="kind")} if tasks is None else tasks
    settings = {"tasks": tasks, "validation": 0.0, "sampling": sampling} | options
    resolved, data = open_data(experiment(entries, **settings))
    return data, Sampler(data, resolved)


def unequal(counts: list[int], **options) -> InMemory:
    """Return counts[0] samples of class a, counts[1] of class b, ..."""
    labels = [name for name, n in zip(NAMES, counts) for _ in range(n)]
    n = len(labels)
    return InMemory(n, tuple(labels), split=("train",) * n, **options)


def weighted(weights: list[float], **options) -> InMemory:
    n = len(weights)
    labels = tuple("ab"[i % 2] for i in range(n))
    others = {"importance": np.array(weights, dtype=float)}
    return InMemory(n, labels, split=("train",) * n, others=others, **options)


counts_of_classes = st.lists(st.integers(1, 30), min_size=2, max_size=len(NAMES))


@settings(max_examples=20)
@given(
    counts=counts_of_classes,
    extra=st.integers(0, 9),
    micro_batches=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_each_class_is_drawn_equally_often_in_any_run_and_in_each_micro_batch(
    counts, extra, micro_batches, seed
):
    batch = (len(counts) + extra) * micro_batches
    data, sampler = opened(
        {"a": DataEntry(unequal(counts))}, batch_size=batch, micro_batches=micro_batches, seed=seed
    )
    target = data.targets["kind"].numpy()
    total = np.zeros(len(counts), dtype=int)
    for step in range(7):
        of_step = [
            np.bincount(target[m.samples], minlength=len(counts)) for m in sampler.step(step)
        ]
        for of_micro_batch in of_step:
            assert np.ptp(of_micro_batch) <= 1
        total += sum(of_step)
        assert np.ptp(total) <= 1
        assert sampler.counts(step).labeled == {"kind": batch}


@settings(max_examples=8)
@given(counts=counts_of_classes, seed=st.integers(0, 9))
def test_within_a_class_each_sample_is_drawn_before_any_is_drawn_again(counts, seed):
    data, sampler = opened({"a": DataEntry(unequal(counts))}, batch_size=9, seed=seed)
    target = data.targets["kind"].numpy()
    drawn = Counter()
    for step in range(12):
        drawn.update(sampler.step(step)[0].samples.tolist())
        for number in range(len(counts)):
            of_class = [drawn[sample] for sample in np.flatnonzero(target == number).tolist()]
            assert max(of_class) - min(of_class) <= 1


@settings(max_examples=8)
@given(steps=st.lists(st.integers(0, 300), min_size=1, max_size=6), seed=st.integers(0, 9))
@pytest.mark.parametrize("sampling", ["balanced", "weighted"])
def test_a_resumed_run_and_several_ranks_draw_what_one_process_draws(sampling, steps, seed):
    by = {"sampling_by": "importance"} if sampling == "weighted" else {}
    entries = {"a": DataEntry(weighted([1.0, 2.0, 0.5, 3.0, 1.0, 1.0, 7.0]))}
    options = {"sampling": sampling, "batch_size": 6, "seed": seed} | by
    _, visited = opened(entries, **options)
    for step in steps:  # in any order, as no step depends on another
        _, halves = opened(entries, micro_batches=2, **options)
        whole = visited.step(step)[0].samples
        assert np.concatenate([m.samples for m in halves.step(step)]).tolist() == whole.tolist()


def test_samples_without_the_label_keep_their_share_and_reach_every_micro_batch():
    n = 60
    kinds = ("a",) * 40 + ("b",) * 8 + ("",) * 12
    dataset = InMemory(n, kinds, split=("train",) * n, others={"age": np.arange(n, dtype=float)})
    tasks = {"kind": Classification(reads="kind"), "age": Regression(reads="age")}
    data, sampler = opened({"a": DataEntry(dataset)}, tasks=tasks, batch_size=8, micro_batches=4)
    present = data.present["kind"].numpy()
    without, of_micro_batch = 0, np.zeros(4, dtype=int)
    for step in range(50):
        unlabeled = [int((~present[m.samples]).sum()) for m in sampler.step(step)]
        without += sum(unlabeled)
        of_micro_batch += unlabeled
        assert without == (step + 1) * 8 * 12 // 60
        assert sampler.counts(step).labeled == {"kind": 8 - sum(unlabeled), "age": 8}
    assert min(of_micro_batch) >= 10  # 20 on average


def test_each_dataset_is_balanced_on_its_own_and_mix_shares_the_batch():
    entries = {
        "a": DataEntry(unequal([30, 6])),
        "b": DataEntry(unequal([2, 10, 4], prefix="b")),
        "c": DataEntry(InMemory(9, ("x",) * 9, "sort", split=("train",) * 9, prefix="c")),
    }
    tasks = {
        "kind": Classification(reads="kind"),
        "sort": Classification(reads="sort", classes=("x", "y")),
    }
    data, sampler = opened(entries, tasks=tasks, sampling_by="kind", mix="balanced", batch_size=18)
    samples = sampler.step(4)[0].samples
    assert np.bincount(data.dataset[samples]).tolist() == [6, 6, 6]
    target = data.targets["kind"].numpy()
    for number, expected in enumerate([[3, 3], [2, 2, 2]]):
        assert np.bincount(target[samples[data.dataset[samples] == number]]).tolist() == expected


def test_unlabeled_samples_are_shuffled_as_before():
    entries = {"a": DataEntry(unequal([30, 10]), labels=0.5, unlabeled="keep")}
    _, balanced = opened(entries, batch_size=4)
    _, shuffled = opened(entries, sampling="shuffle", batch_size=4)
    for step in range(9):
        one, other = balanced.step(step)[0], shuffled.step(step)[0]
        assert one.samples[4:].tolist() == other.samples[4:].tolist()
    assert balanced.steps_per_epoch == shuffled.steps_per_epoch == 5


def test_the_order_of_the_classes_differs_between_steps():
    data, sampler = opened({"a": DataEntry(unequal([9] * 6))}, batch_size=12, micro_batches=4)
    target = data.targets["kind"].numpy()
    first = {tuple(sorted(target[sampler.step(s)[0].samples].tolist())) for s in range(20)}
    assert len(first) > 8  # of 20 = C(6, 3): no rank always gets the same classes


@settings(max_examples=15)
@given(
    weights=st.lists(st.floats(0, 100), min_size=2, max_size=20).filter(lambda w: max(w) > 1e-3),
    seed=st.integers(0, 9),
)
def test_in_an_epoch_the_count_of_a_sample_is_its_share_rounded_up_or_down(weights, seed):
    entries = {"a": DataEntry(weighted(weights))}
    data, sampler = opened(entries, "weighted", sampling_by="importance", batch_size=1, seed=seed)
    drawable = sum(w > 0 for w in weights)
    assert sampler.steps_per_epoch == drawable
    for epoch in range(3):
        steps = range(epoch * drawable, (epoch + 1) * drawable)
        drawn = Counter(
            data.keys(np.array([sampler.step(s)[0].samples[0] for s in steps])).tolist()
        )
        for number, weight in enumerate(weights):
            expected = drawable * weight / sum(weights)
            assert abs(drawn[f"{number:05d}"] - expected) < 1 + 1e-6


def test_a_dataset_without_the_weights_is_shuffled():
    entries = {
        "a": DataEntry(weighted([1.0, 5.0, 1.0, 1.0])),
        "b": DataEntry(unequal([3, 3], prefix="b")),
    }
    data, sampler = opened(entries, "weighted", sampling_by="importance", batch_size=10)
    drawn = Counter(sampler.step(0)[0].samples.tolist())
    assert [drawn[s] for s in np.flatnonzero(data.dataset == 1).tolist()] == [1] * 6


CLASSES = {"kind": Classification(reads="kind", classes=tuple("abc"))}
TWO = {"kind": Classification(reads="kind"), "again": Classification(reads="kind")}
IMPORTANCE = {"sampling": "weighted", "sampling_by": "importance"}
REFUSED = {
    "a class without a sample": (
        unequal([3, 3]),
        {"tasks": CLASSES},
        r"task\.kind has classes without a training sample \('c'\), so no step can draw them",
    ),
    "a step smaller than the classes": (
        unequal([3, 3, 3]),
        {"batch_size": 2},
        r"input\.batch_size = 2 leaves 2 samples of data\.a with a label of task\.kind in a step, "
        r"too few for its 3 classes: set input\.batch_size to about 3",
    ),
    "a task of numbers": (
        weighted([1.0, 2.0]),
        {
            "tasks": {**CLASSES, "age": Regression(reads="importance")},
            "sampling_by": "age",
        },
        r"input\.sampling_by = 'age': .* one class for each image; tasks that have that: kind",
    ),
    "no task with classes": (
        weighted([1.0, 2.0]),
        {"tasks": {"age": Regression(reads="importance")}},
        "no task has that: set input.sampling_by",
    ),
    "several labels for an image": (
        unequal([3, 3]),
        {"tasks": {"kind": Multilabel(reads="kind")}},
        "no task has that: set input.sampling_by",
    ),
    "several tasks": (
        unequal([3, 3]),
        {"tasks": TWO},
        r"2 tasks have \(kind, again\): set input\.sampling_by to the label of the task",
    ),
    "a negative weight": (
        weighted([1.0, -2.0, 3.0]),
        IMPORTANCE,
        r"1 training samples of data\.a have a weight that is not a number of at least 0: "
        r"00001 \(-2\)",
    ),
    "a missing weight": (
        weighted([1.0, float("nan"), 3.0]),
        IMPORTANCE,
        r"of at least 0: 00001 \(nan\)",
    ),
    "weights of zero": (weighted([0.0, 0.0]), IMPORTANCE, r"of all training samples .* are 0"),
    "names as weights": (
        unequal([3, 3]),
        IMPORTANCE | {"sampling_by": "kind"},
        "expected an annotation with one number for each sample",
    ),
    "an unknown annotation": (
        weighted([1.0, 2.0]),
        IMPORTANCE | {"sampling_by": "importence"},
        r"input\.sampling_by = 'importence': .* did you mean 'importance'",
    ),
}


def test_bad_input_is_refused_with_a_reason(subtests):
    for name, (dataset, options, message) in REFUSED.items():
        with subtests.test(name), pytest.raises(MtlError, match=message):
            opened({"a": DataEntry(dataset)}, **options)


def test_the_suggested_batch_size_is_enough():
    n = 60
    kinds = ("a",) * 20 + ("b",) * 8 + ("c",) * 2 + ("",) * 30
    dataset = InMemory(n, kinds, split=("train",) * n, others={"age": np.arange(n, dtype=float)})
    tasks = {"kind": Classification(reads="kind"), "age": Regression(reads="age")}
    entries = {"a": DataEntry(dataset), "b": DataEntry(unequal([5, 5], prefix="b"))}
    with pytest.raises(MtlError, match="to about") as refused:
        opened(entries, tasks=tasks, batch_size=4, micro_batches=2)
    suggested = int(str(refused.value).split("to about ")[1].split(",")[0])
    assert opened(entries, tasks=tasks, batch_size=suggested, micro_batches=2)


def test_settings_in_conflict_are_found_before_the_data_is_read(subtests):
    entries = {"a": DataEntry(unequal([3, 3]))}
    found = {
        "without a task": ({"tasks": {}, "sampling": "balanced"}, "there is no [task.<label>]"),
        "without weights": ({"sampling": "weighted"}, "set input.sampling_by to the annotation"),
        "no effect": ({"sampling_by": "kind"}, "has no effect"),
        "an unknown task": (
            {"sampling": "balanced", "sampling_by": "kint"},
            "did you mean 'kind'",
        ),
    }
    for name, (options, message) in found.items():
        with subtests.test(name):
            [line] = checks._sampling(experiment(entries, **options))
            assert message in line
