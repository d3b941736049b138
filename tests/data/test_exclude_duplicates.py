"""`exclude_duplicates`: no copies in two splits, and no image with two labels."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from mtl_faces.emotion import Fer
from mtl_faces.sources.fer2013 import Fer2013
from mtl_faces.sources.utkface import Utkface
from PIL import Image
from toy_datasets import experiment

from mtlcore import Classification, Dataset, Index, MtlError, Sample
from mtlcore.config import dump, parse
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data
from mtlcore.data.fingerprint import fingerprint_of
from mtlcore.data.folder import ImageFolder
from mtlcore.data.indexed import open_dataset

TASK = {"kind": Classification(reads="kind")}


def image(path: Path, gray: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), gray).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train: cat 1 2 3 4 4, dog 3 5 6; test: cat 1 7, dog 8.

    1 is in both splits, 3 has two labels, 4 is a harmless copy.
    """
    for split, name, grays in (
        ("train", "cat", [1, 2, 3, 4, 4]),
        ("train", "dog", [3, 5, 6]),
        ("test", "cat", [1, 7]),
        ("test", "dog", [8]),
    ):
        for i, gray in enumerate(grays):
            image(tmp_path / split / name / f"{i}.png", 20 * gray)
    return tmp_path


@frozen(eq=False)
class Grays(Dataset):
    """Images of one gray value each. The key of a sample is its number."""

    own: Any
    grays: Any

    def index(self):
        return self.own

    def decode(self, index, i):
        return Sample(np.full((8, 8, 3), self.grays[int(index.keys[i])], dtype=np.uint8))


def opened(root: Path, which: str, **inputs):
    entry = DataEntry(ImageFolder(root, annotation="kind"), exclude_duplicates=which)
    return open_data(experiment({"own": entry}, TASK, **({"validation": 0.0} | inputs))).data


def keys(data, split: str) -> list[str]:
    return [key.removeprefix(f"{split}/") for key in data.keys(data.split[split]).tolist()]


def test_by_default_no_sample_is_excluded(folders):
    data = opened(folders, "none")
    assert (len(data.split["train"]), len(data.split["test"])) == (8, 3)
    assert data.report == ()


def test_train_loses_images_of_other_splits_and_images_with_two_labels(folders):
    data = opened(folders, "train")
    assert keys(data, "train") == ["cat/1.png", "cat/3.png", "cat/4.png", "dog/1.png", "dog/2.png"]
    assert keys(data, "test") == ["cat/0.png", "cat/1.png", "dog/0.png"]
    assert data.report == (
        "data.own: 1 left out, an identical image is in another split",
        "data.own: 2 left out, an identical image has another label",
    )


def test_test_loses_images_of_train(folders):
    data = opened(folders, "test")
    assert len(data.split["train"]) == 8
    assert keys(data, "test") == ["cat/1.png", "dog/0.png"]
    assert data.report == ("data.own: 1 left out, an identical image is in train",)


def test_the_fingerprint_depends_on_the_excluded_samples(folders):
    prints = {opened(folders, which).fingerprint for which in ("none", "train", "test")}
    assert len(prints) == 3


@pytest.mark.parametrize("which", ["train", "test"])
@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_together_when_the_run_cuts_the_splits(which, seed, tmp_path):
    for i in range(60):
        image(tmp_path / "ab"[i % 2] / f"{i}.png", 4 * (i // 4) * 2 + i % 2)
    entry = DataEntry(ImageFolder(tmp_path, annotation="kind"), exclude_duplicates=which)
    data = open_data(experiment({"own": entry}, TASK, seed=seed, validation=0.2)).data
    pixels = {
        name: {int(p[0, 0, 0]) for p in data.images.take(samples).images}
        for name, samples in data.split.items()
    }
    assert set(pixels) == {"train", "validation", "test"}
    assert all(pixels.values())
    assert sum(map(len, pixels.values())) == 30
    assert len(set().union(*pixels.values())) == 30


def splits_of(grays: list[int], which: str, order: np.ndarray, official: bool) -> dict[str, str]:
    """Return key -> split of samples with these grays, listed in this order."""
    names = np.array([f"{i:02d}" for i in range(len(grays))])[order]
    split = np.where(np.char.endswith(names, "7"), "test", "train") if official else None
    kinds = np.where(np.array(grays) % 2, "a", "b")[order]
    dataset = Grays(Index(names, {"kind": kinds}, split=split), grays)
    entry = DataEntry(dataset, exclude_duplicates=which)
    run = experiment({"own": entry}, TASK, validation=0.25)
    found = open_dataset(run, "own")
    return dict(zip(names.tolist(), found.split))


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("which", ["train", "test"])
def test_the_order_of_the_samples_changes_no_split(which, official):
    order = np.random.default_rng(0).permutation(80)
    grays = [i // 2 for i in range(80)]
    in_order = splits_of(grays, which, np.arange(80), official)
    assert splits_of(grays, which, order, official) == in_order


@pytest.mark.parametrize("which", ["train", "test"])
def test_without_copies_the_split_is_that_of_none(which):
    own = splits_of(list(range(80)), which, np.arange(80), official=False)
    assert own == splits_of(list(range(80)), "none", np.arange(80), official=False)


def test_the_key_accepts_three_values_and_is_saved(folders):
    own = {"name": "image_folder", "root": str(folders), "annotation": "kind"}
    tables = {"task": {"kind": {"name": "classification"}}, "train": {"steps": 1}}
    for which in ("none", "train", "test"):
        run = parse(tables | {"data": {"own": own | {"exclude_duplicates": which}}})
        assert run.data["own"].exclude_duplicates == which
        assert parse(tomllib.loads(dump(run))).data == run.data
    with pytest.raises(
        MtlError,
        match=r"data.own.exclude_duplicates = 'all': expected one of 'none', 'train', 'test'",
    ):
        parse(tables | {"data": {"own": own | {"exclude_duplicates": "all"}}})


@pytest.mark.slow
def test_the_test_split_of_fer2013_loses_280_images_of_train(unpacked):
    dataset = Fer2013(unpacked("fer2013") / "fer2013")
    run = experiment(
        {"fer": DataEntry(dataset, exclude_duplicates="test")}, {"fer": Fer(emotions=7)}, size=48
    )
    data = open_data(run, {"test"}).data
    assert len(data.split["test"]) == 3589 - 280
    assert data.report == ("data.fer: 280 left out, an identical image is in train",)


@pytest.mark.slow
def test_the_training_split_of_fer2013_loses_its_leaks_and_conflicts(unpacked):
    dataset = Fer2013(unpacked("fer2013") / "fer2013")
    run = experiment(
        {"fer": DataEntry(dataset, exclude_duplicates="train")}, {"fer": Fer(emotions=7)}, size=48
    )
    data = open_data(run, memory=0).data
    digests = {
        name: [data.images.take(np.array([sample])).images.numpy().tobytes() for sample in samples]
        for name, samples in data.split.items()
    }
    assert not set(digests["train"]) & set(digests["test"])
    assert not set(digests["train"]) & set(digests["validation"])
    labels: dict[bytes, set[int]] = {}
    for digest, sample in zip(digests["train"], data.split["train"]):
        labels.setdefault(digest, set()).add(int(data.targets["fer"][sample]))
    assert Counter(len(each) for each in labels.values()).keys() == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "task", "fingerprint"),
    [
        (Fer2013, Fer(emotions=7), "ec0d69f4330b0108a2587fcc2376aacc"),
        (Utkface, Classification(reads="gender"), "fb9d248cbf866229e66978437b03a960"),
    ],
)
def test_the_splits_of_the_protocols_stay_as_they_are(dataset, task, fingerprint, unpacked):
    name = dataset.__name__.lower()
    own = dataset(unpacked(name) / name)
    entry = DataEntry(own, labels=0.1, unlabeled="drop", exclude_duplicates="test")
    found = open_dataset(experiment({name: entry}, {"own": task}, validation=0.1), name)
    assert fingerprint_of([found], (48, 48)) == fingerprint
