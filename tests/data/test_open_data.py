"""Open the data of a run: joined datasets, splits, labels, reports, and errors of the user."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aligned_toys import Scenes
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from toy_datasets import InMemory, cycle, experiment, numbers_of

import mtlcore
from mtlcore import (
    Annotation,
    BuildContext,
    Classification,
    Head,
    MtlError,
    Multilabel,
    Segmentation,
    SupervisedTask,
)
from mtlcore.config.experiment import DataEntry, PretextEntry
from mtlcore.data.dataset import OpenedData, RunData, open_data
from mtlcore.data.indexed import read_labels, split_dataset

TRAIN60 = ("train",) * 60
OFFICIAL = ("train",) * 60 + ("val",) * 20 + ("test",) * 20


@frozen
class Number(SupervisedTask):
    """A task on numbers (N, 2): the mean of the training samples becomes its field."""

    reads: str = "size"
    mean: float | None = None

    def fit(self, annotation: Annotation) -> Number:
        return self if self.mean is not None else evolve(self, mean=float(annotation[:, 0].mean()))

    def target(self, annotation: Annotation) -> tuple[torch.Tensor, torch.Tensor]:
        values = torch.from_numpy(annotation).float()
        return values, ~values.isnan().any(1)

    def build(self, context: BuildContext) -> Head:
        raise NotImplementedError


def opened(dataset: InMemory, splits=None, **options) -> RunData:
    return both(dataset, splits, **options).data


def both(dataset: InMemory, splits=None, **options) -> OpenedData:
    keys = {
        k: options.pop(k)
        for k in ("labels", "unlabeled", "limit", "split", "group", "max_bad")
        if k in options
    }
    return open_data(experiment({"a": DataEntry(dataset, **keys)}, **options), splits)


def keys_of(data: RunData, split: str) -> set[str]:
    return set(data.keys(data.split[split]).tolist())


# ------------------------------------------------------------ shares of the labels


def test_a_share_of_labels_in_rare_combinations_is_that_share():
    """Each set of names is nearly unique; a label of each would be nearly all labels."""
    rng = np.random.default_rng(0)
    sets = ["|".join(n for n in "abcdefghijkl" if rng.random() < 0.5) for _ in range(400)]
    dataset = InMemory(400, tuple(sets), split=("train",) * 400)
    tasks = {"kind": Multilabel(reads="kind")}
    data = opened(dataset, labels=0.05, tasks=tasks, validation=0.0)
    assert int(data.labeled.sum()) == 20


def test_a_share_of_maps_and_their_duplicates_do_not_depend_on_a_number_of_the_image(tmp_path):
    dataset = Scenes(n=80, size=(8, 8))
    index = dataset.index()
    numbered = evolve(index, annotations={"scan": np.arange(80).astype(str)})
    exp = experiment(
        {"a": DataEntry(dataset, labels=0.1)}, {"classes": Segmentation(("a", "b"), "classes")}
    )
    assert read_labels(exp, numbered) == ()
    found = split_dataset(exp, "a", numbered)
    assert int((found.labeled & (found.split == "train")).sum()) == 5  # of 60 - 6


# ------------------------------------------------------------ joined datasets


def test_two_datasets_are_joined_each_with_its_own_labels():
    a = InMemory(60, cycle("ab", 60), split=TRAIN60, attributes={"race": np.array(cycle("xy", 60))})
    sizes = np.stack([np.arange(60.0), np.ones(60)], 1)
    b = InMemory(60, None, others={"size": sizes}, split=TRAIN60, prefix="b")
    tasks = {"kind": Classification(reads="kind"), "size": Number()}
    data = open_data(experiment({"a": DataEntry(a), "b": DataEntry(b)}, tasks, validation=0.0)).data
    assert data.dataset.tolist() == [0] * 60 + [1] * 60
    assert data.present["kind"].tolist() == [True] * 60 + [False] * 60
    assert data.present["size"].tolist() == [False] * 60 + [True] * 60
    assert data.targets["kind"].tolist() == [0, 1] * 30 + [0] * 60
    assert data.targets["size"].tolist() == [[0.0, 0.0]] * 60 + sizes.tolist()
    assert data.attributes["race"].tolist() == ["x", "y"] * 30 + [""] * 60
    assert data.keys(np.array([0, 60])).tolist() == ["00000", "b00000"]
    assert numbers_of(data.images.take(np.array([3, 63])).images) == [3, 3]
    assert (len(a.indexed), len(b.indexed)) == (1, 1)
    assert data.labeled.all()


def test_labels_of_two_datasets_are_joined_by_name():
    a = InMemory(4, ("happy", "sad", "happy", "sad"), split=("train",) * 4)
    b = InMemory(4, ("sad", "sad", "angry", "happy"), split=("train",) * 4)
    resolved, data = open_data(experiment({"a": DataEntry(a), "b": DataEntry(b)}, validation=0.0))
    assert resolved.tasks["kind"].component.classes == ("angry", "happy", "sad")
    assert data.targets["kind"].tolist() == [1, 2, 1, 2, 2, 2, 0, 1]


def test_tasks_are_fitted_on_the_labeled_training_samples_alone():
    values = np.stack([np.arange(100.0), np.zeros(100)], 1)
    values[5] = np.nan
    dataset = InMemory(100, None, others={"size": values}, split=OFFICIAL)
    resolved, data = both(dataset, tasks={"size": Number()}, labels=0.5)
    train = data.split["train"]
    assert len(train) < 40  # of the 54 that validation leaves
    own = [float(key) for key in data.keys(train) if key != "00005"]
    assert resolved.tasks["size"].component.mean == pytest.approx(np.mean(own))


def test_a_fitted_task_does_not_change_when_only_test_is_opened():
    dataset = InMemory(100, cycle("abc", 100), split=OFFICIAL)
    resolved, trained = both(dataset)
    resolved_again, again = open_data(resolved, {"test"})
    assert resolved_again == resolved
    assert set(again.split) == {"test"}
    assert len(again) == 20
    assert numbers_of(again.images.take(again.split["test"]).images) == list(range(80, 100))
    assert again.fingerprint == trained.fingerprint


def test_only_images_of_the_opened_splits_are_read():
    dataset = InMemory(100, cycle("ab", 100), split=OFFICIAL, bad=frozenset(range(60, 100)))
    assert len(opened(dataset, {"train", "validation"})) == 60
    assert opened(dataset, {"train", "validation"}).report == ()


def test_the_experiment_records_the_size_of_the_image_cache():
    dataset = InMemory(60, cycle("ab", 60), split=TRAIN60, size=20)
    assert both(dataset, size=8).experiment.input.cache_size == (12, 12)
    assert opened(dataset, size=8).images.size == (12, 12)
    assert opened(dataset, size=16).images.size == (20, 20)
    assert opened(dataset, size=8, cache_size=16).images.size == (16, 16)


def test_images_on_demand_give_the_same_data():
    run = experiment({"a": DataEntry(InMemory(100, cycle("ab", 100), split=OFFICIAL))})
    in_memory = open_data(run).data
    on_demand = open_data(run, memory=0).data
    samples = np.arange(100)
    assert type(in_memory.images) is not type(on_demand.images)
    assert torch.equal(in_memory.images.take(samples).images, on_demand.images.take(samples).images)
    assert in_memory.fingerprint == on_demand.fingerprint


# ------------------------------------------------------------ splits and labels


def test_official_splits_do_not_change_and_validation_is_cut_from_train():
    data = opened(InMemory(100, cycle("ab", 100), split=OFFICIAL), validation=0.1)
    assert {name: len(samples) for name, samples in data.split.items()} == {
        "train": 54,
        "validation": 6,
        "val": 20,
        "test": 20,
    }
    assert keys_of(data, "test") == {f"{i:05d}" for i in range(80, 100)}


def test_a_dataset_without_official_splits_is_cut_80_to_20_by_group():
    people = tuple(f"person {i // 5}" for i in range(200))
    data = opened(InMemory(200, cycle("ab", 200), group=people), validation=0.1)
    assert len(data.split["test"]) == 40
    where = {name: {people[int(k)] for k in keys_of(data, name)} for name in data.split}
    assert not where["train"] & where["test"]
    assert not where["train"] & where["validation"]
    assert not where["test"] & where["validation"]


def test_a_named_column_overrides_split_and_group():
    columns = {
        "fold": np.array(["train"] * 50 + ["test"] * 50),
        "person": np.array([f"p{i // 2}" for i in range(100)]),
    }
    dataset = InMemory(100, cycle("ab", 100), split=OFFICIAL, attributes=columns)
    data = opened(dataset, split="fold", group="person", validation=0.2)
    assert keys_of(data, "test") == {f"{i:05d}" for i in range(50, 100)}
    assert not {int(k) // 2 for k in keys_of(data, "train")} & {
        int(k) // 2 for k in keys_of(data, "validation")
    }


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_named_column_may_call_validation_by_its_short_names(name):
    column = {"fold": np.array(["train"] * 70 + [name] * 20 + ["test"] * 10)}
    data = opened(InMemory(100, cycle("ab", 100), attributes=column), split="fold", validation=0.5)
    assert {split: len(samples) for split, samples in data.split.items()} == {
        "train": 70,
        "validation": 20,
        "test": 10,
    }
    assert keys_of(data, "validation") == {f"{i:05d}" for i in range(70, 90)}


@given(seed=st.integers(0, 50), shares=st.tuples(st.floats(0.02, 1.0), st.floats(0.02, 1.0)))
def test_shares_of_labels_are_nested_and_validation_does_not_change(seed, shares):
    few, many = (
        opened(InMemory(200, cycle("aab", 200)), labels=s, seed=seed) for s in sorted(shares)
    )
    assert keys_of(few, "train") <= keys_of(many, "train")
    assert keys_of(few, "validation") == keys_of(many, "validation")
    assert keys_of(few, "test") == keys_of(many, "test")
    assert {int(k) % 3 // 2 for k in keys_of(few, "train")} == {0, 1}


@given(seed=st.integers(0, 50))
def test_splits_do_not_depend_on_other_datasets(seed):
    dataset = InMemory(200, cycle("ab", 200))
    entry = DataEntry(dataset, labels=0.2)
    other = DataEntry(InMemory(50, cycle("cd", 50), prefix="other"))
    alone = open_data(experiment({"a": entry}, seed=seed)).data
    beside = open_data(
        experiment({"b": other, "a": entry}, seed=seed, batch_size=64, micro_batches=2)
    ).data
    for name in ("train", "validation", "test"):
        assert keys_of(alone, name) == {
            k for k in keys_of(beside, name) if not k.startswith("other")
        }


def test_pretraining_and_training_have_the_same_validation_and_test_samples():
    dataset = InMemory(200, cycle("aab", 200))
    trained, pretrained = opened(dataset), opened(dataset, tasks={})
    for name in ("train", "validation", "test"):
        assert keys_of(trained, name) == keys_of(pretrained, name)


def test_samples_that_lose_their_labels_are_dropped_or_stay_without_them():
    dataset = InMemory(100, cycle("ab", 100), split=OFFICIAL)
    dropped = opened(dataset, labels=0.1, validation=0.0)
    kept = opened(dataset, labels=0.1, unlabeled="keep", validation=0.0)
    assert len(dropped.split["train"]) == 6
    assert len(kept.split["train"]) == 60
    assert keys_of(dropped, "train") == set(
        kept.keys(kept.split["train"])[kept.labeled[kept.split["train"]]].tolist()
    )
    cut = kept.split["train"][~kept.labeled[kept.split["train"]]]
    assert not kept.targets["kind"][torch.from_numpy(cut)].any()
    assert kept.present["kind"][torch.from_numpy(kept.split["test"])].all()


def test_samples_that_never_had_a_label_are_dropped_or_stay():
    dataset = InMemory(60, cycle("ab", 40) + ("",) * 20, split=TRAIN60)
    assert len(opened(dataset, validation=0.0).split["train"]) == 40
    data = opened(dataset, validation=0.0, unlabeled="keep")
    assert len(data.split["train"]) == 60
    assert data.labeled.sum() == 40


def test_a_limit_applies_to_every_split():
    data = opened(InMemory(100, cycle("ab", 100), split=OFFICIAL), limit=5, validation=0.2)
    assert {name: len(samples) for name, samples in data.split.items()} == {
        "train": 5,
        "validation": 5,
        "val": 5,
        "test": 5,
    }


def test_validation_may_be_empty_beside_train():
    data = opened(
        InMemory(100, cycle("ab", 100), split=OFFICIAL), {"train", "validation"}, validation=0.0
    )
    assert len(data.split["validation"]) == 0


# ------------------------------------------------------------ the fingerprint


def test_the_fingerprint_covers_samples_labels_splits_and_the_cache_size():
    labels = cycle("ab", 100)
    base = InMemory(100, labels, split=OFFICIAL, size=20)
    reference = opened(base).fingerprint
    assert opened(base, {"test"}).fingerprint == reference
    others = [
        opened(InMemory(100, ("b", *labels[1:]), split=OFFICIAL, size=20)),
        opened(InMemory(100, labels, split=OFFICIAL, size=20, prefix="x")),
        opened(InMemory(100, labels, split=("test", *OFFICIAL[1:]), size=20)),
        opened(base, seed=1),
        opened(base, labels=0.5),
        opened(base, cache_size=10),
    ]
    assert len({reference, *(o.fingerprint for o in others)}) == 7


# ------------------------------------------------------------ reports


def test_unreadable_samples_are_in_no_split_and_are_reported_once_with_examples():
    dataset = InMemory(
        100, cycle("ab", 100), split=OFFICIAL, bad=frozenset([1, 2, 3, 4, 85]), skipped=("x.jpg",)
    )
    data = opened(dataset, validation=0.0)
    assert len(data.split["train"]) == 56
    assert len(data.split["test"]) == 19
    assert data.report == (
        "data.a: 1 left out, malformed name: x.jpg",
        "data.a: 5 left out, unreadable: 00001 is not a readable image: made so, "
        "00002 is not a readable image: made so, 00003 is not a readable image: made so, ...",
    )


def test_malformed_and_unreadable_samples_count_against_one_limit():
    dataset = InMemory(
        100, cycle("ab", 100), split=OFFICIAL, bad=frozenset([1, 2]), skipped=("x.jpg", "y.jpg")
    )
    opened(dataset, max_bad=4)
    with pytest.raises(
        MtlError,
        match=r"data.a .*: 4 samples .* max_bad = 3; "
        r"malformed name \(2\): x.jpg, y.jpg; unreadable \(2\)",
    ):
        opened(dataset, max_bad=3)
    with pytest.raises(
        MtlError, match=r"data.a .*: 2 samples are malformed or unreadable, more than max_bad = 1"
    ):
        opened(dataset, max_bad=1)


def test_on_demand_unreadable_samples_are_in_no_split_and_count_against_the_same_limit():
    dataset = InMemory(100, cycle("ab", 100), split=OFFICIAL, bad=frozenset([1, 2, 85]))
    in_memory = open_data(experiment({"a": DataEntry(dataset)})).data
    on_demand = open_data(experiment({"a": DataEntry(dataset)}), memory=0).data
    assert {name: samples.tolist() for name, samples in on_demand.split.items()} == {
        name: samples.tolist() for name, samples in in_memory.split.items()
    }
    assert not {1, 2, 85} & {
        int(key) for name in on_demand.split for key in keys_of(on_demand, name)
    }
    assert on_demand.report == in_memory.report
    assert on_demand.report[0].startswith("data.a: 3 left out, unreadable: ")
    with pytest.raises(MtlError, match=r"data.a .*: 3 samples .* max_bad = 2; unreadable \(3\)"):
        open_data(experiment({"a": DataEntry(dataset, max_bad=2)}), memory=0)


def test_lazy_data_decodes_only_the_images_that_decide_the_cache_size():
    decoded = []

    @frozen(eq=False)
    class Recording(InMemory):
        def decode(self, index, sample):
            decoded.append(sample)
            return InMemory.decode(self, index, sample)

    dataset = Recording(5000, cycle("ab", 5000), bad=frozenset(range(10, 5000)))
    data = open_data(experiment({"a": DataEntry(dataset, max_bad=1)}), lazy=True).data
    assert len(decoded) <= 64
    assert sum(len(samples) for samples in data.split.values()) == 5000


def test_dropped_training_samples_are_reported():
    dataset = InMemory(120, cycle("ab", 100) + ("",) * 20, split=("train",) * 100 + ("test",) * 20)
    line = 'data.a: 80 samples of train without labels dropped (labels = 0.2, unlabeled = "drop")'
    assert opened(dataset, {"train", "validation"}, labels=0.2, validation=0.0).report == (line,)
    assert opened(dataset, labels=0.2, unlabeled="keep", validation=0.0).report == ()
    assert line not in opened(dataset, {"test"}, labels=0.2, validation=0.0).report


def test_in_evaluation_a_task_without_a_label_in_the_split_is_reported():
    sizes = np.full((100, 2), np.nan)
    sizes[:60] = 1.0
    dataset = InMemory(100, cycle("ab", 100), others={"size": sizes}, split=OFFICIAL)
    tasks = {"kind": Classification(reads="kind"), "size": Number()}
    assert opened(dataset, {"test"}, tasks=tasks).report == (
        "task.size: no labeled sample in the split 'test'",
    )
    assert opened(dataset, {"validation"}, tasks=tasks).report == ()


@pytest.mark.parametrize("kind", [ValueError, MtlError])
def test_a_task_that_cannot_be_fitted_is_named(kind):
    @frozen
    class Failing(Number):
        def fit(self, annotation):
            raise kind("numbers are needed")

    dataset = InMemory(60, None, others={"size": np.ones((60, 2))}, split=TRAIN60)
    with pytest.raises(MtlError, match=r"^task.big: numbers are needed$"):
        opened(dataset, tasks={"big": Failing()})


def test_samples_without_a_split_are_reported():
    data = opened(InMemory(60, cycle("ab", 60), split=("",) * 7 + TRAIN60[7:]), validation=0.0)
    assert len(data.split["train"]) == 53
    assert data.report == ("data.a: 7 left out, they belong to no split",)


def test_unknown_classes_are_counted_and_their_samples_have_no_label():
    dataset = InMemory(60, cycle("abc", 60), split=TRAIN60)
    data = opened(
        dataset, tasks={"kind": Classification(reads="kind", classes=("a", "b"))}, validation=0.0
    )
    assert data.report == (
        'data.a: 20 samples of train without labels dropped (labels = 1.0, unlabeled = "drop")',
        "task.kind: 20 samples have a label 'kind' that it does not know: c (20)",
    )
    assert len(data.split["train"]) == 40


def test_a_misspelled_class_is_refused_and_an_absent_one_is_not():
    dataset = InMemory(60, cycle(["cat", "dog", "1"], 60), split=TRAIN60)
    for classes in (("cat", "horse"), ("cat", "10")):
        tasks = {"kind": Classification(reads="kind", classes=classes)}
        assert len(opened(dataset, tasks=tasks, validation=0.0).split["train"]) == 20
    with pytest.raises(
        MtlError, match=r"task.kind: no sample has the class 'dgo', and 20 .* 'dog'"
    ):
        opened(dataset, tasks={"kind": Classification(reads="kind", classes=("cat", "dgo"))})


# ------------------------------------------------------------ errors of the user


def test_training_refuses_a_task_that_no_dataset_has_labels_for():
    dataset = InMemory(60, cycle("ab", 60), "emotion")
    with pytest.raises(
        MtlError,
        match=r"task.fer reads the annotation 'emotions', .*data.a has emotion.*"
        r"did you mean 'emotion'",
    ):
        opened(dataset, tasks={"fer": Classification(reads="emotions")})


def test_in_evaluation_a_task_without_labels_is_left_out_and_reported():
    dataset = InMemory(100, cycle("ab", 100), split=OFFICIAL)
    tasks = {"kind": Classification(reads="kind", classes=("a", "b")), "size": Number(mean=0.0)}
    resolved, data = both(dataset, {"test"}, tasks=tasks)
    assert set(data.targets) == set(data.present) == set(resolved.tasks) == {"kind"}
    assert data.report == (
        "task.size reads the annotation 'size', which no dataset has (data.a has kind)",
    )
    with pytest.raises(
        MtlError, match=r"task.size reads the annotation 'size', which no dataset has"
    ):
        opened(dataset, {"test"}, tasks={"size": Number(mean=0.0)})


@pytest.mark.parametrize("name", ["tset", "training"])
def test_an_unknown_split_is_an_error_that_lists_the_splits(name):
    with pytest.raises(
        MtlError, match=f"no sample of the split '{name}'; .*known: test, train, val, validation"
    ):
        opened(InMemory(100, cycle("ab", 100), split=OFFICIAL), {name})


def test_data_without_train_is_refused():
    with pytest.raises(MtlError, match="no sample of the split 'train'; known: test"):
        opened(
            InMemory(20, cycle("ab", 20), split=("test",) * 20),
            tasks={"kind": Classification(reads="kind", classes=("a", "b"))},
        )


@pytest.mark.parametrize("key", ["split", "group"])
def test_an_unknown_column_is_an_error_that_names_the_nearest(key):
    dataset = InMemory(20, cycle("ab", 20), attributes={"person": np.array(cycle("pq", 20))})
    with pytest.raises(MtlError, match=f"data.a.{key} = 'persom': .*did you mean 'person'"):
        opened(dataset, **{key: "persom"})


def test_an_empty_dataset_is_refused_with_what_it_skipped():
    with pytest.raises(
        MtlError, match=r"data.a .* has no usable sample; malformed name \(1\): x.jpg"
    ):
        opened(InMemory(0, (), skipped=("x.jpg",)))


def test_a_run_without_datasets_is_refused():
    with pytest.raises(MtlError, match="no data"):
        open_data(experiment({}, tasks={}))


def test_datasets_with_different_values_under_one_name_are_refused():
    a, b = (
        InMemory(20, cycle("ab", 20)),
        InMemory(20, None, others={"kind": np.arange(20.0)}, prefix="b"),
    )
    with pytest.raises(
        MtlError,
        match=r"disagree on what the annotation 'kind' is: data.a: strings \(20,\), data.b: ",
    ):
        open_data(experiment({"a": DataEntry(a), "b": DataEntry(b)}))


def test_a_dataset_with_a_repeated_key_is_refused():
    with pytest.raises(MtlError, match=r"data\.a: the index has the key '00001' 2 times"):
        opened(InMemory(4, cycle("ab", 4), order=(0, 1, 1)))


@pytest.mark.parametrize("field", ["split", "group"])
def test_a_dataset_with_too_few_values_is_refused(field):
    @frozen(eq=False)
    class Short(InMemory):
        def index(self):
            return evolve(InMemory.index(self), **{field: np.array(["train"])})

    with pytest.raises(MtlError, match=f"data.a: the index has 4 keys but 1 values of {field}"):
        opened(Short(4, cycle("ab", 4)))


def test_progress_reports_the_number_of_images_read():
    calls = []
    dataset = InMemory(300, cycle("ab", 300), split=("train",) * 300)
    open_data(experiment({"a": DataEntry(dataset)}), progress=lambda *call: calls.append(call))
    assert calls[-1] == ("reading images", 300, 300)


def test_one_class_alone_is_an_error_that_names_it():
    run = experiment({"a": DataEntry(InMemory(20, cycle("a", 20)))})
    with pytest.raises(
        MtlError, match=r"task.kind: all labels 'kind' .* are 'a'; expected at least two classes"
    ):
        open_data(run)


def test_a_pretext_on_unlabeled_samples_needs_a_dataset_that_keeps_some():
    run = experiment({"a": DataEntry(InMemory(20, cycle("ab", 20)))}, unlabeled_batch=4)
    with pytest.raises(MtlError, match=r"input.unlabeled_batch = 4: no dataset keeps samples"):
        open_data(run)


@pytest.mark.parametrize("setting", ["unlabeled_batch", "samples"])
def test_all_samples_labeled_where_a_setting_needs_unlabeled_ones_is_an_error(setting):
    # A dataset that MAY keep unlabeled samples is not enough: the pretext would train on nothing.
    entry = DataEntry(InMemory(20, cycle("ab", 20)), unlabeled="keep")
    if setting == "samples":
        pretext = PretextEntry(mtlcore.component("pretext", "puzzling"), samples="unlabeled")
        run = evolve(experiment({"a": entry}), pretexts={"puzzling": pretext})
    else:
        run = experiment({"a": entry}, unlabeled_batch=4)
    with pytest.raises(MtlError, match=rf"{setting} = .*every training sample has a label"):
        open_data(run)
    assert open_data(run, splits=["validation"]).data.split["validation"].size
