"""What `mtl data check` finds: copies, conflicting labels, leaks, bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from mtl_faces.emotion import Fer
from mtl_faces.sources.fer2013 import Fer2013
from mtl_faces.sources.utkface import Utkface
from PIL import Image
from toy_datasets import InMemory, cycle, experiment

from mtlcore import Categories, Classification, Dataset, MtlError, Sample
from mtlcore.config.experiment import DataEntry
from mtlcore.data.check import check_data
from mtlcore.data.copies import together
from mtlcore.data.dataset import open_data
from mtlcore.data.folder import ImageFolder
from mtlcore.data.indexed import open_dataset
from mtlcore.evaluation.sheet import label_sheet

KEYS = {
    "counts",
    "missing",
    "unreadable",
    "malformed",
    "duplicate_groups",
    "conflicting_groups",
    "one_class",
    "shared_between_splits",
    "fingerprint",
}


def image(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 12), gray).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train: cat 1 2 3 4, dog 3 5 6; test: cat 1 7, dog 8 9 8.

    3 has two labels, 1 is in both splits, 8 occurs twice.
    """
    for split, name, grays in (
        ("train", "cat", [1, 2, 3, 4]),
        ("train", "dog", [3, 5, 6]),
        ("test", "cat", [1, 7]),
        ("test", "dog", [8, 9, 8]),
    ):
        for i, gray in enumerate(grays):
            image(tmp_path / split / name / f"{i}.png", 20 * gray)
    return tmp_path


def checked(dataset, **entry):
    run = experiment({"own": DataEntry(dataset, **entry)}, {"kind": Classification(reads="kind")})
    return check_data(run, "own")


def test_it_counts_classes_copies_conflicts_and_leaks(folders):
    report = checked(ImageFolder(folders, annotation="kind"))
    assert report.counts == {"kind": {"test": {"cat": 2, "dog": 3}, "train": {"cat": 4, "dog": 3}}}
    assert sorted(map(sorted, report.duplicates)) == [
        ["test/cat/0.png", "train/cat/0.png"],
        ["test/dog/0.png", "test/dog/2.png"],
        ["train/cat/2.png", "train/dog/0.png"],
    ]
    assert report.conflicting == [["train/cat/2.png", "train/dog/0.png"]]
    assert report.shared == ["test/cat/0.png"]
    found = report.as_json()
    assert set(found) == KEYS
    assert [
        found[k] for k in ("duplicate_groups", "conflicting_groups", "shared_between_splits")
    ] == [3, 1, 1]


def test_missing_unreadable_and_malformed_files_are_counted_separately(folders):
    (folders / "train" / "cat" / "1.png").write_bytes(b"")
    (folders / "train" / "notes.txt").write_text("x")
    (folders / "train" / "dog" / "9.png").symlink_to(folders / "nowhere.png")
    report = checked(ImageFolder(folders, annotation="kind"))
    assert list(report.missing) == ["train/dog/9.png"]
    assert list(report.unreadable) == ["train/cat/1.png"]
    assert report.malformed == {"not in a class folder": ["train/notes.txt"]}
    assert [report.as_json()[k] for k in ("missing", "unreadable", "malformed")] == [1, 1, 1]


def test_max_bad_is_ignored(folders):
    (folders / "train" / "cat" / "1.png").write_bytes(b"")
    assert len(checked(ImageFolder(folders, annotation="kind"), max_bad=0).unreadable) == 1


def test_unreadable_images_are_not_copies_of_each_other(folders):
    for name in ("cat/1.png", "dog/1.png"):
        (folders / "train" / name).write_bytes(b"")
    assert len(checked(ImageFolder(folders, annotation="kind")).duplicates) == 3


def test_a_dataset_without_official_splits_is_cut_as_in_a_run():
    report = checked(InMemory(100, cycle("ab", 100)), labels=0.1, limit=5)
    assert report.counts == {"kind": {"test": {"a": 10, "b": 10}, "train": {"a": 40, "b": 40}}}


@pytest.mark.parametrize("which", ["train", "test"])
def test_excluded_duplicates_change_the_cut_as_in_a_run(which, tmp_path):
    for i in range(60):
        name = "dog" if i in (0, 3) or i >= 30 else "cat"
        image(tmp_path / name / f"{i:02}.png", 4 * (i // 3))
    dataset = ImageFolder(tmp_path, annotation="kind")
    run = experiment({"own": DataEntry(dataset, exclude_duplicates=which)}, validation=0.0)
    report = check_data(run, "own")
    expected = open_dataset(run, "own")
    assert report.split.tolist() == expected.split.tolist()
    assert not report.shared
    assert len(report.conflicting) == 2
    assert report.fingerprint == open_data(run).data.fingerprint


def test_every_annotation_is_counted_and_numbers_count_as_given():
    values = np.array([1.0, np.nan, 3.0, np.nan])
    run = experiment(
        {
            "own": DataEntry(
                InMemory(4, ("a", "b", "a", ""), others={"age": values}, split=("train",) * 4)
            )
        },
        {},
    )
    report = check_data(run, "own")
    assert report.as_json()["counts"] == {
        "kind": {"train": {"": 1, "a": 2, "b": 1}},
        "age": {"train": {"": 2, "given": 2}},
    }
    bare = experiment({"own": DataEntry(InMemory(4, None, split=("train",) * 4))}, {})
    assert check_data(bare, "own").as_json()["counts"] == {"train": {"": 4}}


def test_copies_with_different_numbers_conflict_and_missing_labels_agree_with_any():
    same = [7] * 8
    values = np.array([1.0, 1.0, np.nan, 1.0, 1.0, 2.0, np.nan, np.nan])
    dataset = InMemory(8, None, others={"size": values}, order=tuple(range(8)))
    run = experiment({"own": DataEntry(_Gray(dataset, tuple(same)))}, {})
    report = check_data(run, "own")
    assert [len(keys) for keys in report.duplicates] == [8]
    assert len(report.conflicting) == 1
    agreeing = InMemory(4, None, others={"size": values[:4]})
    assert (
        check_data(experiment({"own": DataEntry(_Gray(agreeing, (7,) * 4))}, {}), "own").conflicting
        == []
    )


def test_the_fingerprint_is_that_of_a_run_on_this_dataset_alone(folders):
    run = experiment(
        {"own": DataEntry(ImageFolder(folders, annotation="kind"))},
        {"kind": Classification(reads="kind")},
    )
    assert check_data(run, "own").fingerprint == open_data(run).data.fingerprint
    before = check_data(run, "own").fingerprint
    (folders / "test" / "cat" / "1.png").rename(folders / "test" / "dog" / "9.png")
    assert check_data(run, "own").fingerprint != before


def test_an_unknown_dataset_and_one_without_samples_are_errors(tmp_path):
    run = experiment({"own": DataEntry(ImageFolder(tmp_path))})
    with pytest.raises(MtlError, match=r"there is no table \[data.owm\]; did you mean 'own'\?"):
        check_data(run, "owm")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(MtlError, match=r"data.own has no usable sample; not in a class folder: 1"):
        check_data(run, "own")


def test_the_sheet_has_a_sample_for_each_class_and_for_each_conflict(folders):
    (folders / "test" / "cat" / "1.png").write_bytes(b"")
    run = experiment(
        {"own": DataEntry(ImageFolder(folders, annotation="kind"))},
        {"kind": Classification(reads="kind")},
    )
    report = check_data(run, "own")
    sheet = label_sheet(run, report)
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] == 3 * (128 + 4) + 4  # cat, dog, one conflict
    gray = np.unique(
        sheet[10:20].reshape(-1, 3), axis=0
    )  # the first sample: 1 2 3 4 and the copy of 1
    assert {(20 * g,) * 3 for g in (1, 2, 3, 4)} <= set(map(tuple, gray.tolist()))
    assert (140, 140, 140) not in set(map(tuple, gray.tolist()))


def test_a_sheet_of_numbers_and_one_without_labels_are_drawn_too():
    values = np.linspace(0, 1, 40)
    run = experiment({"own": DataEntry(InMemory(40, None, others={"size": values}))}, {})
    assert label_sheet(run, check_data(run, "own")).shape[0] == 3 * (128 + 4) + 4
    bare = experiment({"own": DataEntry(InMemory(40, None))}, {})
    assert label_sheet(bare, check_data(bare, "own")).shape[0] == 128 + 8


def test_groups_are_merged_with_copies_until_none_is_separated():
    copy = np.array([0, 1, 2, 1, 3, 4])
    group = np.array(["a", "a", "b", "c", "c", "d"])
    order = np.arange(6)
    merged = together(copy, Categories.of(group), order)
    assert len(set(merged.tolist())) == 3
    assert len({merged[0], merged[1], merged[3], merged[4]}) == 1
    assert together(copy, None, order).tolist() == ["0", "1", "2", "1", "3", "4"]
    assert together(copy, None, order[::-1]).tolist() == ["4", "2", "3", "2", "1", "0"]
    assert together(order, None, order) is None


# ------------------------------------------------------------ the real sets


@pytest.mark.slow
def test_fer2013_has_its_known_copies(unpacked):
    run = experiment(
        {"fer2013": DataEntry(Fer2013(unpacked("fer2013") / "fer2013"))}, {"fer": Fer(emotions=7)}
    )
    found = check_data(run, "fer2013").as_json()
    assert found["duplicate_groups"] == 1273
    assert found["conflicting_groups"] == 47
    assert found["shared_between_splits"] == 280
    assert [found["missing"], found["unreadable"], found["malformed"]] == [0, 0, 0]
    assert found["counts"]["train"]["happiness"] == 7215
    assert sum(found["counts"]["test"].values()) == 3589


@pytest.mark.slow
def test_utkface_has_its_known_problems(unpacked):
    task = {"gender": Classification(reads="gender")}
    report = check_data(
        experiment({"utk": DataEntry(Utkface(unpacked("utkface") / "utkface"))}, task), "utk"
    )
    assert report.malformed == {
        "a name that is not <age>_<gender>_<race>_<date>": [
            "61_1_20170109142408075.jpg.chip.jpg",
            "61_3_20170109150557335.jpg.chip.jpg",
        ]
    }
    assert (len(report.duplicates), len(report.conflicting)) == (92, 14)
    assert sum(map(len, report.duplicates)) == 190


@frozen(eq=False)
class _Gray(Dataset):
    """Another dataset with images of one gray value each."""

    dataset: Any
    grays: Any

    def index(self):
        return self.dataset.index()

    def decode(self, index, sample):
        return Sample(np.full((8, 8, 3), self.grays[sample], dtype=np.uint8))
