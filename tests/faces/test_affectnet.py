"""AffectNet: the csv release, with and without a header, and the npy release."""

from __future__ import annotations

import numpy as np
import pytest
from face_files import image, ramp
from mtl_faces.sources.affectnet import Affectnet

from mtlcore import MtlError

HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,"
    "expression,valence,arousal"
)
EMOTIONS = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt"]
MARKS = "12.5;30.1;40.2;50.3"
NO_FACE = "images left out, without a face by the dataset's own label"


def row(path, expression, valence="0.25", arousal="-0.5", box="10,20,40,40"):
    return f"{path},{box},{MARKS},{expression},{valence},{arousal}"


PLACES = ("Manually_Annotated_Images", "Manually_Annotated_Images/Manually_Annotated_Images", ".")


def csv_release(root, place):
    """Write a csv release with its images at this place."""
    root.mkdir()
    training = [row(f"1/{i}.{'JPG' if i else 'bmp'}", i) for i in range(8)]
    training += [row("2/8.tif", 8, -2, -2), row("2/9.jpg", 9, -2, -2), row("2/10.jpg", 10, -2, -2)]
    (root / "training.csv").write_text("\n".join([HEADER, *training]) + "\n")
    (root / "validation.csv").write_text(row("3/a.png", 6) + "\n" + row("3/b.png", 1) + "\n")
    for line in training:
        image(root / place / line.split(",")[0], size=(60, 70))
    for name in "ab":
        ramp(root / place / f"3/{name}.png")
    return root


@pytest.fixture(params=["val_set", "valid_set"])
def npy_release(request, tmp_path):
    rows = [("train_set", str(i), i) for i in range(8)]
    rows += [(request.param, "100", 3), (request.param, "101", 10)]
    for number, (folder, name, expression) in enumerate(rows):
        image(tmp_path / folder / "images" / f"{name}.jpg", 10 * number)
        values = {"exp": str(expression), "val": "0.5", "aro": "-0.25", "lnd": np.zeros(136)}
        (tmp_path / folder / "annotations").mkdir(parents=True, exist_ok=True)
        for tail, value in values.items():
            array = np.array(value) if number % 2 or tail == "lnd" else np.array(float(value))
            np.save(tmp_path / folder / "annotations" / f"{name}_{tail}.npy", array)
    return tmp_path


def test_the_npy_release_may_name_its_folders_otherwise(npy_release):
    before = Affectnet(npy_release).index()
    renamed = {"train_set": "Train_Set", "val_set": "validation_set", "valid_set": "validation"}
    for old, new in renamed.items():
        if (npy_release / old).is_dir():
            (npy_release / old).rename(npy_release / new)
    (npy_release / "more").mkdir()
    index = Affectnet(npy_release).index()
    assert index.split.tolist() == before.split.tolist()
    (note,) = set(index.skipped.notes) - {NO_FACE}
    assert note.endswith(" are: more")


def test_the_csv_release_is_read_with_and_without_a_header(tmp_path):
    index = Affectnet(csv_release(tmp_path / "csv", PLACES[0])).index()
    assert index.split.tolist() == ["train"] * 10 + ["test"] * 2
    assert index.annotations["emotion"].tolist() == [*EMOTIONS, "", "", "anger", "happiness"]
    np.testing.assert_array_equal(index.annotations["valence_arousal"][0], [0.25, -0.5])
    assert np.isnan(index.annotations["valence_arousal"][8:10]).all()
    assert index.skipped.names == {}
    assert index.skipped.notes == {NO_FACE: 1}


def test_images_are_found_at_each_place_and_cropped_to_the_face(tmp_path):
    for number, place in enumerate(PLACES):
        root = csv_release(tmp_path / str(number), place)
        dataset = Affectnet(root)
        index = dataset.index()
        assert len(index) == 12
        for i in range(len(index)):
            assert dataset.decode(index, i).image.shape == (40, 40, 3), place
        assert dataset.decode(index, 10).image[0, 0, :2].tolist() == [10, 20]
        wide = Affectnet(root, margin=0.25)
        assert wide.decode(wide.index(), 10).image.shape == (60, 60, 3)
        whole = Affectnet(root, crop="none")
        assert whole.decode(whole.index(), 0).image.shape == (70, 60, 3)


def test_malformed_csv_rows_are_counted(tmp_path):
    rows = [
        row("1/ok.jpg", 0),
        "1/a.jpg,1,2,3",
        row("1/b.jpg", 11),
        row("1/c.jpg", "happy"),
        row("1/d.jpg", 0, "1.5"),
        row("1/e.jpg", 0, "0", "x"),
        row("1/f.jpg", 0, box="1,2,nan,4"),
        row("1/ok.jpg", 1),
    ]
    (tmp_path / "training.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    index = Affectnet(tmp_path).index()
    assert len(index) == 1
    assert index.skipped.names == {
        "not 9 columns": ["training.csv, line 3"],
        "unknown expression '11'": ["training.csv, line 4"],
        "an expression that is not a number": ["training.csv, line 5"],
        "valence or arousal beyond -1 ... 1": ["training.csv, line 6"],
        "valence or arousal that is not a number": ["training.csv, line 7"],
        "a face box that is not a number": ["training.csv, line 8"],
        "listed twice": ["1/ok.jpg"],
    }
    with pytest.raises(MtlError, match="can't be read"):
        Affectnet(tmp_path).decode(index, 0)


def test_the_npy_release_is_read_from_numbers_or_text(npy_release):
    dataset = Affectnet(npy_release)
    index = dataset.index()
    assert index.split.tolist() == ["train"] * 8 + ["test"]
    assert index.annotations["emotion"].tolist() == [*EMOTIONS, "surprise"]
    np.testing.assert_array_equal(index.annotations["valence_arousal"], [[0.5, -0.25]] * 9)
    assert index.skipped.names == {}
    assert index.skipped.notes == {NO_FACE: 1}
    grays = [round(int(dataset.decode(index, i).image[0, 0, 0]), -1) for i in range(9)]
    assert grays == [10 * i for i in range(9)]


def test_broken_npy_files_are_counted_and_never_unpickled(npy_release):
    labels = npy_release / "train_set" / "annotations"
    (labels / "0_exp.npy").unlink()
    (labels / "1_val.npy").write_bytes(b"\x93NUMPY")
    np.save(labels / "2_aro.npy", np.zeros(3))
    np.save(labels / "3_exp.npy", np.array({"a": 1}), allow_pickle=True)
    np.save(labels / "4_exp.npy", np.array("joy"))
    skipped = Affectnet(npy_release).index().skipped.names
    assert skipped["no _exp.npy"] == ["train_set/images/0.jpg"]
    assert skipped["an unreadable _val.npy"] == ["train_set/images/1.jpg"]
    assert skipped["a _aro.npy that is not one number"] == ["train_set/images/2.jpg"]
    assert skipped["an unreadable _exp.npy"] == ["train_set/images/3.jpg"]
    assert skipped["an expression that is not a number"] == ["train_set/images/4.jpg"]


def test_a_root_with_neither_release_is_named(tmp_path):
    with pytest.raises(
        MtlError, match=r"holds none of training.csv \| validation.csv \| train_set \| val_set"
    ):
        Affectnet(tmp_path).index()
