"""FER2013 in both layouts: labels by name, splits, counts of malformed samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mtl_faces.emotion import Fer
from mtl_faces.sources.fer2013 import Fer2013
from PIL import Image
from toy_datasets import experiment

from mtlcore import MtlError
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data

ORDER = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
EMOTIONS = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, 2304, dtype=np.uint8)


def text(values: np.ndarray) -> str:
    return " ".join(map(str, values.tolist()))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Write two training images and one test image for each class, and a hidden file."""
    for number, name in enumerate(ORDER):
        for split, count in (("train", 2), ("test", 1)):
            folder = tmp_path / "fer2013" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(np.full((48, 48), 10 * number + i, dtype=np.uint8))
                image.save(folder / f"{split}_{i}.{'JPG' if i else 'jpg'}", "JPEG", quality=95)
    (tmp_path / "fer2013" / "train" / "happy" / ".DS_Store").write_bytes(b"x")
    return tmp_path / "fer2013"


def csv_file(path: Path, rows: list[str], header: str = "emotion,pixels,Usage") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


# ----------------------------------------------------------------------------------------- folders


def test_class_folders_become_emotions_by_name_and_splits(folders):
    index = Fer2013(folders).index()
    found = Counter(zip(index.split.tolist(), index.annotations["emotion"].tolist()))
    expected = Counter(("train", emotion) for emotion in 2 * EMOTIONS)
    expected += Counter(("test", emotion) for emotion in EMOTIONS)
    assert found == expected
    assert len(index.skipped) == 0
    assert "train/happy/train_0.jpg" in index.keys
    assert "train/happy/train_1.JPG" in index.keys


def test_every_sample_decodes_to_its_own_image(folders):
    dataset = Fer2013(folders)
    index = dataset.index()
    for i, key in enumerate(index.keys):
        image = dataset.decode(index, i).image
        assert image.shape == (48, 48, 3)
        expected = 10 * ORDER.index(key.split("/")[1]) + int(key[-5])
        assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["val", "Val", "valid", "validation", "Validation", "dev"])
def test_a_second_folder_by_any_usual_name_is_val_and_others_are_reported(folders, name):
    (folders / "test").rename(folders / name)
    (folders / "train").rename(folders / "Training")
    (folders / "extra").mkdir()
    index = Fer2013(folders).index()
    assert Counter(index.split.tolist()) == {"train": 14, "val": 7}
    assert {key.split("/")[0] for key in index.keys.tolist()} == {"Training", name}
    data = open_data(
        experiment({"own": DataEntry(Fer2013(folders))}, {"fer": Fer(emotions=7)})
    ).data
    assert data.report == (f"data.own: 1 folders not read, since only Training, {name} are: extra",)


def test_a_folder_of_the_release_is_read_before_one_of_another_name(folders):
    before = Fer2013(folders).index()
    (folders / "Testing").mkdir()
    index = Fer2013(folders).index()
    assert index.keys.tolist() == before.keys.tolist()
    assert index.split.tolist() == before.split.tolist()
    assert index.skipped.notes == {"folders not read, since only train, test are: Testing": 1}


def test_samples_are_sorted_by_name_within_each_split(folders):
    keys = Fer2013(folders).index().keys.tolist()
    assert keys == sorted(keys[:14]) + sorted(keys[14:])


def test_folders_may_have_the_names_of_emotions(folders):
    (folders / "train" / "happy").rename(folders / "train" / "Happiness")
    index = Fer2013(folders).index()
    assert (index.annotations["emotion"] == "happiness").sum() == 3
    assert len(index.skipped) == 0


def test_an_unknown_class_folder_is_counted_with_the_nearest_name(folders):
    (folders / "train" / "happy").rename(folders / "train" / "hapy")
    index = Fer2013(folders).index()
    (reason, names), *rest = index.skipped.names.items()
    assert not rest
    assert reason.startswith(
        "unknown class folder 'hapy' (did you mean 'happy'? known: anger, angry"
    )
    assert names == ["train/hapy/train_0.jpg", "train/hapy/train_1.JPG"]
    assert len(index) == 19


def test_stray_files_are_counted(folders):
    (folders / "train" / "sad" / "notes.txt").write_text("x")
    (folders / "train" / "readme.md").write_text("x")
    skipped = Fer2013(folders).index().skipped.names
    assert skipped == {
        "not in a class folder": ["train/readme.md"],
        "not one of .jpg, .jpeg, .png, .bmp, .tif, .tiff": ["train/sad/notes.txt"],
    }


def test_a_broken_image_is_left_out_and_reported(folders):
    (folders / "train" / "sad" / "train_0.jpg").write_bytes(b"")
    run = experiment(
        {"fer2013": DataEntry(Fer2013(folders))}, {"fer": Fer(emotions=7)}, validation=0.0, size=48
    )
    data = open_data(run).data
    assert len(data.split["train"]) == 13
    (line,) = data.report
    assert "data.fer2013: 1 left out, unreadable: " in line
    assert line.endswith("train/sad/train_0.jpg is not a readable image: the file is empty")


# --------------------------------------------------------------------------------------------- csv


def test_the_csv_release_is_read_row_by_row(tmp_path):
    usages = ["Training", "PublicTest", "PrivateTest"]
    rows = [f"{i % 7},{text(pixels(i))},{usages[i % 3]}" for i in range(21)]
    dataset = Fer2013(csv_file(tmp_path / "fer2013.csv", rows))
    index = dataset.index()
    assert index.annotations["emotion"].tolist() == EMOTIONS * 3
    assert index.split.tolist() == ["train", "val", "test"] * 7
    assert index.keys[:2].tolist() == ["row 00000", "row 00001"]
    for i in (0, 7, 20):
        image = dataset.decode(index, i).image
        assert image.shape == (48, 48, 3)
        for channel in range(3):
            np.testing.assert_array_equal(image[..., channel], pixels(i).reshape(48, 48))


def test_the_root_may_be_the_folder_of_the_csv(tmp_path):
    csv_file(tmp_path / "fer2013.csv", [f"3,{text(pixels(0))},Training"])
    assert Fer2013(tmp_path).index().annotations["emotion"].tolist() == ["happiness"]


def test_columns_may_come_in_another_order_with_spaces_and_a_byte_order_mark(tmp_path):
    row = f"4, Training,{text(pixels(0))}"
    path = csv_file(tmp_path / "fer2013.csv", [row], header="\ufeffemotion, Usage, pixels")
    index = Fer2013(path).index()
    assert (index.annotations["emotion"][0], index.split[0]) == ("sadness", "train")
    assert len(index.skipped) == 0


def test_malformed_rows_are_counted_by_reason(tmp_path):
    good = text(pixels(0))
    rows = [
        f"0,{good},Training",
        f"7,{good},Training",
        f",{good},Training",
        f"0,{good},Validation",
        f"0,{good} 1,Training",
        f"0,{good.rsplit(' ', 1)[0]},Training",
        f"0,{good.rsplit(' ', 1)[0]} x,Training",
        f"0,{good.rsplit(' ', 1)[0]} 256,Training",
        f"0,{good.rsplit(' ', 1)[0]} -1,Training",
        f"0,{good}",
        "",
        f"6,{good},PrivateTest",
    ]
    index = Fer2013(csv_file(tmp_path / "fer2013.csv", rows)).index()
    assert index.keys.tolist() == ["row 00000", "row 00011"]
    assert index.skipped.names == {
        "unknown emotion '7'": ["row 00001"],
        "unknown emotion ''": ["row 00002"],
        "unknown usage 'Validation'": ["row 00003"],
        "not 2304 pixels": ["row 00004", "row 00005"],
        "a pixel that is not a whole number from 0 to 255": ["row 00006", "row 00007", "row 00008"],
        "too few columns": ["row 00009", "row 00010"],
    }


def test_a_wrong_header_is_an_error_that_names_the_expected_columns(tmp_path):
    expected = r"must start with the columns emotion,pixels,Usage; .*pixels.* missing in"
    for header in ("emotion,pixel,Usage", "3,1 2 3,Training", ""):
        path = csv_file(tmp_path / "fer2013.csv", [], header=header)
        with pytest.raises(MtlError, match=expected):
            Fer2013(path).index()


def test_an_empty_file_and_an_image_in_its_place_are_errors(tmp_path):
    (tmp_path / "fer2013.csv").write_bytes(b"")
    with pytest.raises(MtlError, match="must start with the columns"):
        Fer2013(tmp_path).index()
    Image.new("L", (48, 48)).save(tmp_path / "face.png")
    with pytest.raises(MtlError, match="must start with the columns"):
        Fer2013(tmp_path / "face.png").index()


def test_an_endless_field_is_an_error_and_not_a_traceback(tmp_path):
    path = csv_file(tmp_path / "fer2013.csv", ['0,"' + "1 " * 100_000])
    with pytest.raises(MtlError, match="is not a csv file: line 2"):
        Fer2013(path).index()


def test_a_root_that_is_missing_or_holds_something_else_is_an_error(tmp_path):
    with pytest.raises(
        MtlError,
        match=r"nowhere does not exist; expected a folder with train/ and test/, or fer2013.csv",
    ):
        Fer2013(tmp_path / "nowhere").index()
    with pytest.raises(
        MtlError, match=r"holds neither the folders train \| val \| test nor the file fer2013.csv"
    ):
        Fer2013(tmp_path).index()


# -------------------------------------------------------------------------------- the real dataset


@pytest.mark.slow
def test_the_real_dataset_has_its_known_counts(unpacked):
    index = Fer2013(unpacked("fer2013") / "fer2013").index()
    train = Counter(index.annotations["emotion"][index.split == "train"].tolist())
    assert [train[e] for e in EMOTIONS] == [3995, 436, 4097, 7215, 4830, 3171, 4965]
    assert Counter(index.split.tolist()) == {"train": 28709, "test": 3589}
    assert len(index.skipped) == 0


def test_the_real_dataset_loads_with_a_tenth_of_its_labels(unpacked):
    dataset = Fer2013(unpacked("fer2013") / "fer2013")
    run = experiment({"fer2013": DataEntry(dataset, labels=0.1)}, {"fer": Fer(emotions=7)}, size=48)
    resolved, data = open_data(run, {"train", "validation"})
    assert {name: len(rows) for name, rows in data.split.items()} == {
        "train": 2584,
        "validation": 2871,
    }
    counts = np.bincount(data.targets["fer"][data.split["train"]], minlength=7)
    whole = {
        "neutral": 4965,
        "happiness": 7215,
        "sadness": 4830,
        "surprise": 3171,
        "fear": 4097,
        "disgust": 436,
        "anger": 3995,
    }
    assert resolved.tasks["fer"].component.classes == tuple(whole)
    assert np.abs(counts - 0.09 * np.array(list(whole.values()))).max() <= 1
    assert data.images.size == (48, 48)
    for row in data.split["train"][:: 2584 // 16]:
        path = unpacked("fer2013") / "fer2013" / str(data.keys(np.array([row]))[0])
        expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(data.images.take(np.array([row])).images[0].numpy(), expected)
