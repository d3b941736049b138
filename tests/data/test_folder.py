"""The dataset `image_folder`: a user's own class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from PIL import Image
from toy_datasets import experiment

from mtlcore import MtlError
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data
from mtlcore.data.folder import ImageFolder


def image(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (gray, gray, gray)).save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for number, name in enumerate(["cat", "dog"]):
        for i, end in enumerate(["png", "PNG", "bmp"]):
            image(tmp_path / name / f"{i}.{end}", 100 * number + 10 * i)
    return tmp_path


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    for number, split in enumerate(["Train", "valid", "test"]):
        for name in ["cat", "dog"]:
            image(tmp_path / split / name / "0.png", number)
    return tmp_path


def test_a_folder_is_a_class_and_there_is_no_official_split(classes):
    index = ImageFolder(classes).index()
    assert index.keys.tolist() == [
        "cat/0.png",
        "cat/1.PNG",
        "cat/2.bmp",
        "dog/0.png",
        "dog/1.PNG",
        "dog/2.bmp",
    ]
    assert index.annotations["label"].tolist() == ["cat"] * 3 + ["dog"] * 3
    assert index.split is None
    assert len(index.skipped) == 0


def test_every_sample_decodes_to_its_own_image(classes):
    dataset = ImageFolder(classes)
    index = dataset.index()
    gray = [int(dataset.decode(index, sample).image[0, 0, 0]) for sample in range(len(index))]
    assert gray == [0, 10, 20, 100, 110, 120]


def test_the_annotation_has_the_configured_name(classes):
    assert list(ImageFolder(classes, annotation="animal").index().annotations) == ["animal"]


def test_the_first_level_may_be_splits(splits):
    index = ImageFolder(splits).index()
    assert dict(zip(index.keys.tolist(), index.split.tolist())) == {
        "Train/cat/0.png": "train",
        "Train/dog/0.png": "train",
        "test/cat/0.png": "test",
        "test/dog/0.png": "test",
        "valid/cat/0.png": "validation",
        "valid/dog/0.png": "validation",
    }
    assert set(index.annotations["label"].tolist()) == {"cat", "dog"}


def test_a_folder_beside_train_that_is_no_split_is_skipped(splits):
    image(splits / "extra" / "cat" / "0.png", 0)
    index = ImageFolder(splits).index()
    assert len(index) == 6
    assert index.skipped.names == {
        "no split, beside a folder that is one "
        "(known: train, training, val, valid, validation, dev, test, testing)": ["extra"]
    }
    data = open_data(experiment({"own": DataEntry(ImageFolder(splits, annotation="kind"))})).data
    (line,) = data.report
    assert line.startswith("data.own: 1 left out, no split, ")
    assert line.endswith(": extra")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Training", "Validation"), ("train", "validation")),
        (("TRAINING", "dev", "Testing"), ("train", "validation", "test")),
        (("train_set", "val_set"), ("train", "validation")),
    ],
)
@pytest.mark.parametrize("extra", [False, True])
def test_split_folders_have_any_usual_name(folders, splits, extra, tmp_path):
    for folder in folders:
        for name in ("cat", "dog"):
            image(tmp_path / folder / name / "0.png", 0)
    if extra:
        image(tmp_path / "extra" / "cat" / "0.png", 0)
    index = ImageFolder(tmp_path).index()
    found = {
        key.split("/")[0]: split
        for key, split in zip(index.keys.tolist(), index.split.tolist(), strict=True)
    }
    assert found == dict(zip(folders, splits, strict=True))
    assert set(index.annotations["label"].tolist()) == {"cat", "dog"}
    assert list(index.skipped.names.values()) == [["extra"]] * extra


def test_folders_called_training_and_testing_among_other_classes_are_classes(classes):
    for name in ("training", "testing"):
        image(classes / name / "0.png", 0)
        index = ImageFolder(classes).index()
        assert index.split is None
        assert name in index.annotations["label"].tolist()


def test_a_folder_called_test_among_other_classes_is_a_class(classes):
    image(classes / "test" / "0.png", 0)
    index = ImageFolder(classes).index()
    assert index.split is None
    assert set(index.annotations["label"].tolist()) == {"cat", "dog", "test"}


def test_images_may_be_at_any_depth_and_hidden_files_do_not_count(classes):
    image(classes / "cat" / "2019" / "may" / "9.png", 0)
    (classes / "cat" / ".DS_Store").write_bytes(b"x")
    index = ImageFolder(classes).index()
    assert "cat/2019/may/9.png" in index.keys
    assert len(index.skipped) == 0


def test_a_circular_link_is_not_followed(classes):
    (classes / "cat" / "again").symlink_to(classes, target_is_directory=True)
    index = ImageFolder(classes).index()
    assert len(index) == 6
    assert list(index.skipped.names.values()) == [["cat/again"]]


def test_other_files_and_empty_class_folders_are_skipped(classes):
    (classes / "readme.txt").write_text("x")
    (classes / "cat" / "notes.txt").write_text("x")
    (classes / "bird").mkdir()
    skipped = ImageFolder(classes).index().skipped.names
    assert skipped["not in a class folder"] == ["readme.txt"]
    assert skipped["a class folder without images"] == ["bird"]
    assert [names for reason, names in skipped.items() if reason.startswith("not one of .jpg")] == [
        ["cat/notes.txt"]
    ]


def test_a_missing_root_is_an_error_that_names_it(tmp_path):
    with pytest.raises(
        MtlError, match=r"nowhere is not a folder; expected one that holds a folder for each class"
    ):
        ImageFolder(tmp_path / "nowhere").index()


def test_an_empty_root_is_an_error_of_the_run(tmp_path):
    with pytest.raises(MtlError, match=r"data.own .* has no usable sample"):
        open_data(experiment({"own": DataEntry(ImageFolder(tmp_path, annotation="kind"))}))


def test_images_without_labels_are_samples_at_any_depth(classes):
    image(classes / "loose.png", 7)
    dataset = ImageFolder(classes, annotation="")
    index = dataset.index()
    assert len(index) == 7
    assert index.annotations == {}
    loose = index.keys.tolist().index("loose.png")
    assert int(dataset.decode(index, loose).image[0, 0, 0]) == 7


def test_images_without_labels_can_be_joined_to_those_with_labels(classes, tmp_path_factory):
    unlabeled = tmp_path_factory.mktemp("unlabeled")
    for i in range(10):
        image(unlabeled / f"{i}.png", i)
    entries = {
        "own": DataEntry(ImageFolder(classes, annotation="kind")),
        "unlabeled": DataEntry(ImageFolder(unlabeled, annotation="")),
    }
    data = open_data(experiment(entries, validation=0.3)).data
    train = data.split["train"]
    assert (data.dataset[train] == 1).sum() == 10  # none is cut into another split
    assert not data.labeled[data.dataset == 1].any()
    assert not data.report
    dropped = entries | {"unlabeled": evolve(entries["unlabeled"], unlabeled="drop")}
    data = open_data(experiment(dropped, validation=0.3)).data
    assert not (data.dataset == 1).any()
    assert data.report == (
        "data.unlabeled: 10 samples of train without labels dropped "
        '(labels = 1.0, unlabeled = "drop")',
    )


def test_a_run_without_tasks_keeps_a_validation_split_of_an_unlabeled_source(classes):
    entries = {"unlabeled": DataEntry(ImageFolder(classes, annotation=""))}
    data = open_data(experiment(entries, tasks={}, validation=0.3)).data
    assert {name: len(indices) for name, indices in data.split.items()} == {
        "train": 4,
        "validation": 2,
    }


def test_the_classes_of_a_run_are_the_names_of_the_folders(classes):
    run = experiment({"own": DataEntry(ImageFolder(classes, annotation="kind"))}, validation=0.0)
    resolved, data = open_data(run)
    assert resolved.tasks["kind"].component.classes == ("cat", "dog")
    assert sum(map(len, data.split.values())) == 6
    assert np.isin(data.split["test"], np.arange(6)).all()
