"""Columns of an index in any coding: equal values give equal splits, targets and fingerprints."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st
from toy_datasets import InMemory, cycle, experiment

from mtlcore import Categories, Classification, Dataset, Index, MtlError, Regression, Sample
from mtlcore.config.experiment import DataEntry
from mtlcore.contracts.texts import Texts
from mtlcore.data.check import check_data
from mtlcore.data.dataset import fit_experiment, index_data, open_data, read_images
from mtlcore.evaluation.sheet import label_sheet

N = 60
NUMBERS = (np.arange(N) * 7 + 3) % N
KINDS = [("b", "", "ü", "a", "ab")[i % 5] for i in NUMBERS]
SIZES = np.where(NUMBERS % 7 == 0, np.nan, NUMBERS / 3)
SPLITS = [("train", "train", "test", "train", "val", "")[i % 6] for i in NUMBERS]
PEOPLE = [f"person {i % 17}" for i in NUMBERS]
RACES = [("y", "x", "")[i % 3] for i in NUMBERS]
KEYS = [f"folder {i % 4}/ümage {i}.png" for i in NUMBERS]

TASKS = {
    "kind": Classification(reads="kind", balance="inverse"),
    "size": Regression(reads="size"),
}


def categories(values: list[str]) -> Categories:
    """Neither sorted, nor are all names used."""
    names = ["not used", *dict.fromkeys(reversed(values))]
    return Categories([names.index(value) for value in values], names)


def with_null(values: list[str]) -> list[str | None]:
    return [value or None for value in values]


def in_two_chunks(values: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values[:20]), pa.array(values[20:])]).dictionary_encode()


CODINGS = {
    "numpy": lambda values: np.array(values),
    "objects": lambda values: np.array(values, dtype=object),
    "strings of any width": lambda values: np.array(values, dtype=np.dtypes.StringDType()),
    "categories": categories,
    "arrow": lambda values: pa.array(with_null(values)),
    "large arrow": lambda values: pa.array(with_null(values), pa.large_string()),
    "arrow dictionary": lambda values: pa.array(with_null(values)).dictionary_encode(),
    "arrow chunks": in_two_chunks,
}


@frozen(eq=False)
class Toy(Dataset):
    """The columns above in the codings of keys, labels, and split, group and attributes."""

    codings: tuple[str, str, str]
    official: bool = True
    decoded: list[int] = field(factory=list)

    def index(self) -> Index:
        keys, labels, others = (CODINGS[coding] for coding in self.codings)
        sizes = pa.array(SIZES, from_pandas=True) if "arrow" in self.codings[1] else SIZES
        return Index(
            keys(KEYS),
            {"kind": labels(KINDS), "size": sizes},
            split=others(SPLITS) if self.official else None,
            group=others(PEOPLE),
            attributes={"race": others(RACES)},
        )

    def decode(self, index: Index, i: int) -> Sample:
        self.decoded.append(i)
        number = int(index.keys[i].removesuffix(".png").split()[-1])
        return Sample(np.full((8, 8, 3), number, dtype=np.uint8))


def run_on(dataset: Dataset, **inputs):
    return experiment({"a": DataEntry(dataset, labels=0.5, limit=30)}, TASKS, seed=5, **inputs)


def content(dataset: Toy) -> dict[str, object]:
    """Everything that a run gets from its data."""
    resolved, data = open_data(run_on(dataset))
    samples = np.arange(len(data))
    return {
        "tasks": resolved.tasks,
        "fingerprint": data.fingerprint,
        "split": {name: indices.tolist() for name, indices in data.split.items()},
        "targets": {label: target.tolist() for label, target in data.targets.items()},
        "present": {label: present.tolist() for label, present in data.present.items()},
        "report": data.report,
        "keys": data.keys(samples).tolist(),
        "race": data.attributes["race"].tolist(),
        "kind": data.annotation("kind", samples).tolist(),
        "size": np.nan_to_num(data.annotation("size", samples), nan=-1).tolist(),
        "images": data.images.take(samples).images[:, 0, 0, 0].tolist(),
    }


# ------------------------------------------------------------ one data set in many codings


@pytest.mark.parametrize(
    ("official", "fingerprint"),
    [(False, "3c7c7910c1c43dda813eb22449eba8f7"), (True, "a72ae40b711e2737aedb2e0e67ef0986")],
)
def test_the_fingerprint_is_that_of_the_first_release_in_every_coding(official, fingerprint):
    for coding in CODINGS:
        found = content(Toy((coding, coding, coding), official))
        assert found["fingerprint"] == fingerprint, coding


@pytest.mark.parametrize("official", [False, True])
def test_every_coding_gives_the_same_data(official):
    expected = content(Toy(("numpy", "numpy", "numpy"), official))
    mixtures = [*product(("numpy", "categories", "arrow dictionary"), repeat=3)]
    for codings in [*mixtures, *((coding,) * 3 for coding in CODINGS)]:
        assert content(Toy(codings, official)) == expected, codings


def test_the_splits_are_those_of_the_first_release():
    found = content(Toy(("categories", "arrow", "categories"), official=False))
    train = [1, 4, 6, 7, 11, 13, 14, 16, 18, 20, 21, 23, 25, 27, 28]
    assert found["split"] == {
        "train": train,
        "validation": [0, 8, 12, 15, 17, 22],
        "test": [2, 3, 5, 9, 10, 19, 24, 26, 29, 30, 31],
    }


def test_datasets_in_different_codings_are_joined_by_name():
    a, b = Toy(("numpy", "categories", "numpy")), Toy(("arrow", "arrow dictionary", "categories"))
    entries = {"a": DataEntry(a), "b": DataEntry(b)}
    resolved, data = open_data(experiment(entries, TASKS, seed=5, validation=0.0))
    assert resolved.tasks["kind"].component.classes == ("a", "ab", "b", "ü")
    half = len(data) // 2
    for of_task in (*data.targets.values(), *data.present.values()):
        assert of_task[:half].tolist() == of_task[half:].tolist()
    races = data.attributes["race"].tolist()
    assert races[:half] == races[half:]
    samples = np.array([0, half, half + 1])
    assert (
        data.annotation("kind", samples).tolist()[:2] == [data.annotation("kind", samples)[0]] * 2
    )
    keys = data.keys(samples).tolist()
    assert keys[0] == keys[1] != keys[2]


def test_a_dataset_is_checked_and_drawn_alike_in_every_coding():
    found, sheets = [], []
    for coding in ("numpy", "arrow dictionary"):
        run = run_on(Toy((coding, coding, coding)))
        report = check_data(run, "a")
        found.append(report.as_json())
        sheets.append(label_sheet(run, report))
    assert all(one == found[0] for one in found)
    assert all(np.array_equal(sheet, sheets[0]) for sheet in sheets)


# ------------------------------------------------------------ the three steps


def test_indexing_decodes_no_image_and_leaves_the_experiment_as_it_is():
    dataset = Toy(("numpy", "numpy", "numpy"))
    run = run_on(dataset)
    indexed = index_data(run)
    assert dataset.decoded == []
    resolved = fit_experiment(run, indexed)
    assert (run.tasks["kind"].component.classes, run.input.cache_size) == ((), None)
    assert resolved.tasks["kind"].component.classes == ("a", "ab", "b", "ü")
    assert resolved.input.cache_size == (8, 8)
    assert read_images(resolved, indexed).fingerprint == open_data(run).data.fingerprint


def test_images_are_read_for_a_resolved_experiment_alone():
    run = run_on(Toy(("numpy", "numpy", "numpy")))
    with pytest.raises(MtlError, match="not resolved: call `fit_experiment` first"):
        read_images(run, index_data(run))


def test_resolving_a_resolved_experiment_changes_nothing():
    run = run_on(Toy(("numpy", "numpy", "numpy")))
    indexed = index_data(run)
    resolved = fit_experiment(run, indexed)
    assert fit_experiment(resolved, indexed) == resolved


# ------------------------------------------------------------ what an index holds


def test_an_index_holds_strings_as_categories_and_gives_keys_as_str():
    for coding, column in CODINGS.items():
        index = Index(column(KEYS), {"kind": column(KINDS)}, attributes={"race": column(RACES)})
        assert type(index.keys[3]) is str, coding
        assert index.keys.tolist() == KEYS
        assert isinstance(index.annotations["kind"], Categories)
        assert index.attributes["race"].tolist() == RACES


def test_numbers_of_arrow_have_nan_for_null():
    column = Index(np.array(["a", "b"]), {"age": pa.array([3, None])}).annotations["age"]
    np.testing.assert_array_equal(column, [3.0, np.nan])


def test_a_file_name_that_is_no_utf8_can_be_a_key():
    keys = np.array(["b\udcff.png", "a.png"])
    index = Index(keys, {"kind": keys})
    assert index.keys.tolist() == index.annotations["kind"].tolist() == keys.tolist()
    labels = np.array(["x", "y"] * 20)
    many = np.array([f"{i}\udcff" for i in range(40)])

    @frozen(eq=False)
    class Odd(InMemory):
        def index(self):
            return Index(many, {"kind": labels})

        def decode(self, index, sample):
            return Sample(np.zeros((8, 8, 3), dtype=np.uint8))

    data = open_data(experiment({"a": DataEntry(Odd(40))})).data
    assert data.keys(np.array([3])).tolist() == ["3\udcff"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"keys": np.arange(40)}, r"the keys are int64 \(40,\); expected \(N,\) strings"),
        ({"split": np.arange(40)}, r"the split is int64 \(40,\); expected \(N,\) strings"),
        ({"attributes": {"age": np.arange(40.0)}}, "the attribute 'age' is float64"),
        ({"annotations": {"kind": np.array([b"a"] * 40)}}, r"the annotation 'kind' is \|S1"),
        ({"annotations": {"kind": np.array([["a"]] * 40)}}, r"is <U1 \(40, 1\); expected"),
        ({"annotations": {"kind": np.array(["a", None] * 20)}}, "is object"),
    ],
)
def test_columns_of_another_type_are_refused(columns, message):
    own = {"keys": np.array([f"{i}" for i in range(40)]), "annotations": {}} | columns

    @frozen(eq=False)
    class Wrong(InMemory):
        def index(self):
            return Index(**own)

    with pytest.raises(MtlError, match=message):
        open_data(experiment({"a": DataEntry(Wrong(40))}))


# ------------------------------------------------------------ categories


def test_categories_behave_like_an_array_of_strings():
    values = np.array(KINDS)
    column = categories(KINDS)
    assert len(column) == N
    assert column[3] == KINDS[3]
    assert (column[5:9].tolist(), list(column)) == (KINDS[5:9], KINDS)
    assert column[NUMBERS].tolist() == values[NUMBERS].tolist()
    assert (column == "ü").tolist() == (values == "ü").tolist()
    assert (column != "").tolist() == (values != "").tolist()
    assert (column == "no such name").sum() == 0
    assert np.array_equal(column, values)
    names, positions = np.unique(values, return_inverse=True)
    assert column.unique()[0].tolist() == column.used() == names.tolist()
    assert column.unique()[1].tolist() == positions.tolist()


def test_categories_are_made_of_any_iterable_of_strings():
    assert Categories.of(kind for kind in KINDS).tolist() == KINDS
    assert Categories.of(iter(())).tolist() == []
    with pytest.raises(MtlError, match="expected strings, got 3"):
        Categories.of(["a", 3])


def test_categories_can_be_copied_and_pickled():
    column = categories(KINDS)
    for again in (copy.deepcopy(column), pickle.loads(pickle.dumps(column))):
        assert again.tolist() == KINDS


def test_renamed_categories_may_become_one():
    column = Categories([0, 1, 2, 0], ["Val", "dev", "x"]).rename(
        lambda name: {"Val": "validation", "dev": "validation"}.get(name, name)
    )
    assert column.tolist() == ["validation", "validation", "x", "validation"]
    assert column.isin("validation").sum() == 3


def test_blank_samples_are_missing():
    column = Categories([0, 1, 1], ["a", "b"]).blank(np.array([False, True, False]))
    assert column.tolist() == ["a", "", "b"]


@pytest.mark.parametrize(
    ("codes", "names", "message"),
    [
        ([0, 2], ["a", "b"], "the code 2 is out of range for 2 names; expected 0 to 1"),
        ([0, -1], ["a", "b"], r'the code -1 .* A missing value has the name ""'),
        ([0, 1], ["a", "a"], "the name 'a' repeats"),
        ([0.5], ["a"], r"codes is float64 \(1,\); expected \(N,\) int"),
        ([0], [1], r"names is object \(1,\); expected \(K,\) strings"),
    ],
)
def test_wrong_categories_are_refused(codes, names, message):
    with pytest.raises(MtlError, match=message):
        Categories(codes, names)


def test_categories_without_codes_can_be_used_whatever_their_names_are():
    for names in ([], ["a", "b"]):
        column = Categories([], names)
        assert (column.tolist(), column.used(), column.unique()[1].tolist()) == ([], [], [])
        assert (column == "a").tolist() == column[:].tolist() == []


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_string_of_numpy_is_the_empty_string(missing):
    kind = np.dtypes.StringDType(na_object=missing)
    values = np.array(["b", missing, "a", "b"], dtype=kind)
    assert Categories.of(values).tolist() == ["b", "", "a", "b"]
    assert Index(values, {}).keys.tolist() == ["b", "", "a", "b"]


def test_strings_of_any_width_are_never_sorted_by_numpy(monkeypatch):
    """numpy.unique of them ends the process in numpy 2.4."""
    unique = np.unique

    def refuse(values, *args, **kwargs):
        assert np.asarray(values).dtype.kind != "T"
        return unique(values, *args, **kwargs)

    monkeypatch.setattr(np, "unique", refuse)
    column = Categories.of(CODINGS["strings of any width"](KINDS))
    assert column.tolist() == KINDS


@pytest.mark.parametrize("column", [np.array([], dtype=str), pa.array([], pa.string())])
def test_a_column_of_no_samples_is_empty(column):
    found = Categories.of(column)
    assert (found.tolist(), found.used(), found.unique()[1].tolist()) == ([], [], [])


def test_an_index_of_no_samples_is_no_usable_sample_whatever_its_columns_are():
    @frozen(eq=False)
    class Empty(InMemory):
        def index(self):
            return Index(np.array([]), {"kind": np.array([])}, split=np.array([]))

    with pytest.raises(MtlError, match="has no usable sample"):
        open_data(experiment({"a": DataEntry(Empty(0))}))


def test_a_task_gets_each_different_string_once():
    asked = []

    @frozen
    class Counting(Classification):
        def target(self, annotation):
            asked.append(annotation)
            return super().target(annotation)

    dataset = InMemory(60, cycle("abc", 60))
    open_data(experiment({"a": DataEntry(dataset)}, {"kind": Counting(reads="kind")}))
    assert [names.tolist() for names in asked] == [["a", "b", "c"]]
    assert asked[0].dtype.kind == "U"


# ------------------------------------------------------------ memory


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("coding", ["categories", "arrow"])
def test_a_million_samples_with_string_keys_and_three_labels_take_under_300_mb(coding):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "benchmarks.index_memory", "--coding", coding]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["samples"] == 1_000_000
    assert figures["peak_mb"] < 300


texts = st.lists(st.text(st.characters(exclude_categories=()), max_size=6), max_size=30)


@given(texts, st.data())
def test_texts_are_the_strings_they_were_made_of(strings, data) -> None:
    """With zero characters, lone surrogates, and strings of very different lengths."""
    column = Texts.of(strings)
    assert (len(column), column.tolist()) == (len(strings), strings)
    assert [column[i] for i in range(len(strings))] == strings
    positions = data.draw(st.lists(st.integers(0, max(0, len(strings) - 1)))) if strings else []
    assert column[np.array(positions, dtype=int)].tolist() == [strings[i] for i in positions]
    assert column[1:3].tolist() == strings[1:3]
    assert column[::-2].tolist() == strings[::-2]
    assert column.argsort().tolist() == sorted(range(len(strings)), key=strings.__getitem__)
    counts = Counter(strings)
    repeated = column.repeated()
    assert (repeated is None) == (len(counts) == len(strings))
    assert repeated is None or counts[repeated[0]] == repeated[1] > 1


def test_texts_are_compared_like_an_array_of_strings() -> None:
    strings = ["b", "a", "a\0", ""]
    column = Texts.of(strings)
    assert (column == "a").tolist() == [False, True, False, False]
    assert (column != "a").tolist() == [True, False, True, True]
    assert (column == "b").tolist() == [True, False, False, False]
    for other in (Texts.of(["b", "b", "a\0", ""]), ["b", "b", "a\0", ""]):
        assert (column == other).tolist() == [True, False, True, True]
    assert (Texts.of([]) == "a").tolist() == []
    assert column[(column == "a") | (column == "b")].tolist() == ["b", "a"]


def test_one_long_text_does_not_widen_the_others() -> None:
    strings = [f"{i:07d}" for i in range(99_999, -1, -1)]
    strings.append("x" * 100_000)
    column = Texts.of(strings)
    assert column.buffer.nbytes == 800_000
    assert column.argsort().tolist() == [*range(99_999, -1, -1), 100_000]
