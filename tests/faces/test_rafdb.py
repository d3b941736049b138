"""RAF-DB: the release's list with its manual annotation, and copies in folders."""

from __future__ import annotations

import pytest
from face_files import image
from mtl_faces.sources.rafdb import Rafdb

from mtlcore import MtlError

EMOTIONS = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
ATTRIBUTES = [("0", "0", "0"), ("1", "1", "4"), ("2", "2", "2")]


@pytest.fixture
def release(tmp_path):
    names = [f"train_{i:05d}" for i in range(1, 8)] + [f"test_{i:04d}" for i in range(1, 3)]
    (tmp_path / "EmoLabel").mkdir()
    lines = [f"{name}.jpg {i % 7 + 1}" for i, name in enumerate(names)]
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "Annotation" / "manual").mkdir(parents=True)
    for i, name in enumerate(names):
        image(tmp_path / "Image" / "aligned" / f"{name}_aligned.jpg", 10 * i)
        marks = "".join(f"{10.5 + k}\t{20.25 + k}\n" for k in range(5))
        text = marks + "\n".join(ATTRIBUTES[i % 3]) + "\n"
        (tmp_path / "Annotation" / "manual" / f"{name}_manu_attri.txt").write_text(text)
    return tmp_path


def test_the_list_gives_emotions_and_splits_and_the_annotation_gives_people(release):
    index = Rafdb(release).index()
    assert index.annotations["emotion"].tolist() == [*EMOTIONS, "surprise", "fear"]
    assert index.split.tolist() == ["train"] * 7 + ["test"] * 2
    assert index.annotations["gender"].tolist() == ["male", "female", ""] * 3
    assert index.attributes["race"][:3].tolist() == ["caucasian", "african-american", "asian"]
    assert index.attributes["age_band"][:3].tolist() == ["0-3", "70+", "20-39"]
    assert index.keys[0] == "Image/aligned/train_00001_aligned.jpg"
    assert len(index.skipped) == 0


def test_every_sample_decodes_to_its_own_image(release):
    dataset = Rafdb(release)
    index = dataset.index()
    grays = [round(int(dataset.decode(index, i).image[0, 0, 0]), -1) for i in range(9)]
    assert grays == [10 * i for i in range(9)]


def test_original_images_are_read_without_aligned_ones(release):
    (release / "Image" / "aligned").rename(release / "Image" / "original")
    for path in (release / "Image" / "original").iterdir():
        path.rename(path.with_name(path.name.replace("_aligned", "")))
    dataset = Rafdb(release)
    index = dataset.index()
    assert index.keys[0] == "Image/original/train_00001.jpg"
    assert dataset.decode(index, 0).image.shape == (20, 24, 3)


def test_without_the_manual_annotation_there_is_no_gender(release):
    (release / "Annotation").rename(release / "other")
    index = Rafdb(release).index()
    assert list(index.annotations) == ["emotion"]
    assert index.attributes == {}


def test_bad_lines_and_broken_annotations_are_counted(release):
    path = release / "EmoLabel" / "list_patition_label.txt"
    path.write_text(
        path.read_text() + "train_00009.jpg 8\nface.jpg 1\ntrain_00001.jpg 2\n../train_1.jpg 1\n"
    )
    (release / "Annotation" / "manual" / "train_00001_manu_attri.txt").write_text("1 2")
    (release / "Annotation" / "manual" / "train_00002_manu_attri.txt").unlink()
    index = Rafdb(release).index()
    assert len(index) == 9
    assert index.annotations["gender"][:2].tolist() == ["", ""]
    skipped = index.skipped.names
    assert len(skipped["a line that is not <train|test>_<number>.jpg <1 ... 7>"]) == 4
    assert list(skipped) == ["a line that is not <train|test>_<number>.jpg <1 ... 7>"]
    assert index.skipped.notes == {
        "faces without a readable manual annotation: used without gender": 2
    }


COPY = ["Surprise", "Fear", "Disgust", "Happy", "Sad", "Angry", "Neutral"]


@pytest.mark.parametrize(
    ("test", "names"), [("valid", "1234567"), ("test", EMOTIONS), ("test", COPY)]
)
def test_copies_in_folders_are_read(tmp_path, test, names):
    for split in ("train", test):
        for name in names:
            image(tmp_path / split / name / "x.jpg")
    for number in range(3):
        image(tmp_path / "train" / "8" / f"{number}.jpg")
    index = Rafdb(tmp_path).index()
    assert index.split.tolist() == ["train"] * 7 + ["test"] * 7
    folders = [key.split("/")[1] for key in index.keys.tolist()]
    by_folder = dict(zip(folders, index.annotations["emotion"].tolist()))
    assert by_folder == dict(zip(names, EMOTIONS))
    (reason,) = index.skipped.names
    assert reason.startswith("unknown class folder '8' (")
    assert len(index.skipped) == 3  # images, not folders: `max_bad` counts samples


@pytest.mark.parametrize("test", ["validation", "Test", "dev"])
def test_copies_have_any_usual_name_of_a_split_and_others_are_reported(tmp_path, test):
    for split in ("Train", test, "more"):
        image(tmp_path / split / "1" / "x.jpg")
    index = Rafdb(tmp_path).index()
    assert dict(zip(index.keys.tolist(), index.split.tolist())) == {
        "Train/1/x.jpg": "train",
        f"{test}/1/x.jpg": "test",
    }
    assert index.skipped.notes == {f"folders not read, since only Train, {test} are: more": 1}


@pytest.mark.parametrize("other", ["validation", "valid", "val"])
def test_validation_beside_test_is_not_read_but_reported(other, tmp_path):
    for split in ("train", "test", other):
        image(tmp_path / split / "1" / "x.jpg")
    index = Rafdb(tmp_path).index()
    assert index.keys.tolist() == ["train/1/x.jpg", "test/1/x.jpg"]
    assert index.skipped.notes == {f"folders not read, since only train, test are: {other}": 1}


def test_a_root_with_neither_is_an_error(tmp_path):
    with pytest.raises(
        MtlError,
        match=r"holds neither EmoLabel/list_patition_label.txt nor the folders train and test",
    ):
        Rafdb(tmp_path).index()
