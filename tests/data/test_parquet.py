"""The dataset `parquet`: bytes or paths of images in a column, one file or a folder of them."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_datasets import experiment

from mtlcore import Classification, MtlError
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data
from mtlcore.data.parquet import Parquet


def png(gray: int, size: tuple[int, int] = (6, 4)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, gray).save(out, "PNG")
    return out.getvalue()


def features(**columns: dict) -> dict[bytes, bytes]:
    """The metadata that `datasets` writes."""
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def write(file: Path, columns: dict, metadata: dict | None = None, rows: int = 3) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, file, row_group_size=rows)
    return file


@pytest.fixture
def hub(tmp_path) -> Path:
    """A data set as the Hub has it: train in two files of 4 rows, test in one of 2."""
    names = features(
        label={"names": ["cat", "dog"], "_type": "ClassLabel"}, image={"_type": "Image"}
    )
    files = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    for number, (name, rows) in enumerate(zip(files, (4, 4, 2))):
        images = [{"bytes": png(10 * number + i), "path": f"{i}.png"} for i in range(rows)]
        columns = {
            "image": images,
            "label": pa.array([0, 1, -1, None][:rows], pa.int64()),
            "age": pa.array([1.5, None, 3.5, 4.0][:rows], pa.float32()),
            "box": pa.array([[1, 2, 3, 4]] * rows, pa.list_(pa.int32())),
        }
        write(tmp_path / "hub" / "data" / f"{name}.parquet", columns, names)
    return tmp_path / "hub"


def test_a_folder_of_the_hub_is_one_dataset(hub):
    dataset = Parquet(hub)
    index = dataset.index()
    assert index.keys[5] == "data/train-00000-of-00002.parquet:3"
    assert index.split.tolist() == ["test"] * 2 + ["train"] * 8
    assert index.annotations["label"].tolist() == [
        "cat",
        "dog",
        "cat",
        "dog",
        "",
        "",
        "cat",
        "dog",
        "",
        "",
    ]
    np.testing.assert_array_equal(index.annotations["age"][:4], [1.5, np.nan, 1.5, np.nan])
    assert "box" not in index.annotations
    assert index.skipped.notes == {"columns hold lists or other nested values: box": 1}
    grays = [int(dataset.decode(index, i).image[0, 0, 0]) for i in range(10)]
    assert grays == [20, 21, 0, 1, 2, 3, 10, 11, 12, 13]
    again = pickle.loads(pickle.dumps(index))
    assert dataset.decode(again, 9).image.shape == (4, 6, 3)


def test_names_with_a_hash_and_a_folder_of_one_file_give_splits(tmp_path):
    columns = {"image": [{"bytes": png(0), "path": None}]}
    train = write(tmp_path / "a" / "train-00000-of-00001-b42a775f407cee45.parquet", columns)
    write(tmp_path / "a" / "test-00000-of-00001-0123456789abcdef.parquet", columns)
    assert Parquet(tmp_path / "a").index().split.tolist() == ["test", "train"]
    write(tmp_path / "b" / "test-00000-of-00001.parquet", columns)
    assert Parquet(tmp_path / "b").index().split.tolist() == ["test"]
    assert Parquet(train).index().split is None


def test_a_run_trains_on_parquet(hub):
    task = {"label": Classification(reads="label")}
    data = open_data(experiment({"a": DataEntry(Parquet(hub))}, task, validation=0.0)).data
    assert {name: len(indices) for name, indices in data.split.items()}["train"] == 4


def test_lists_become_one_annotation(hub):
    index = Parquet(hub, columns={"box": "box", "label": "label"}).index()
    assert index.annotations["box"].tolist() == [[1, 2, 3, 4]] * 10


def test_files_may_differ_in_the_types_that_their_values_gave_them(tmp_path, subtests):
    plain, none = {"label": ["a", "b"]}, {"label": pa.array([None], pa.null())}
    number = {"label": pa.array([1], pa.int32())}
    cases = {
        "empty first": ([{"label": pa.array([], pa.null())}, plain], ["a", "b"]),
        "empty last": ([plain, {"label": pa.array([], pa.string())}], ["a", "b"]),
        "empty alone": ([{"label": pa.array([], pa.string())}], []),
        "without a label": ([none, plain], ["", "a", "b"]),
        "without any label": ([none], [""]),
        "widths of numbers": ([number, {"label": [2]}, {"label": [2.5]}], [1, 2, 2.5]),
        "a dictionary": ([plain, {"label": pa.array(["c"]).dictionary_encode()}], ["a", "b", "c"]),
    }
    for name, (files, expected) in cases.items():
        with subtests.test(name):
            for number, columns in enumerate(files):
                images = pa.array([png(9)] * len(columns["label"]), pa.binary())
                write(tmp_path / name / f"{number}.parquet", {"image": images, **columns})
            dataset = Parquet(tmp_path / name)
            index = dataset.index()
            assert index.annotations["label"].tolist() == expected
            assert all(dataset.decode(index, i).image[0, 0, 0] == 9 for i in range(len(index)))


def test_a_file_without_any_image_is_read(tmp_path):
    image = {"bytes": png(9), "path": "a.png"}
    write(tmp_path / "a.parquet", {"image": [image]})
    write(tmp_path / "b.parquet", {"image": pa.array([None], pa.null())})
    dataset = Parquet(tmp_path)
    index = dataset.index()
    assert index.keys.tolist() == ["a.parquet:0", "b.parquet:0"]
    assert dataset.decode(index, 0).image[0, 0, 0] == 9
    with pytest.raises(MtlError, match=r"b\.parquet:0 is not a readable image"):
        dataset.decode(index, 1)


def test_types_that_contradict_matter_where_they_are_read(tmp_path):
    write(tmp_path / "a.parquet", {"image": [png(0)], "label": ["x"], "id": [1]})
    write(tmp_path / "b.parquet", {"image": [png(1)], "label": ["y"], "id": ["2"]})
    with pytest.raises(
        MtlError, match=r"b\.parquet: the column 'id' is string, but int64 in .*a\.p"
    ):
        Parquet(tmp_path).index()
    index = Parquet(tmp_path, columns={"label": "label"}, attributes=()).index()
    assert index.annotations["label"].tolist() == ["x", "y"]


def test_numbers_may_be_class_names(tmp_path):
    file = write(tmp_path / "a.parquet", {"image": [png(0), png(1)], "kind": [3, 4]})
    assert Parquet(file).index().annotations["kind"].tolist() == [3.0, 4.0]
    assert Parquet(file, categorical=("kind",)).index().annotations["kind"].tolist() == ["3", "4"]


def test_a_column_may_hold_paths(tmp_path, subtests):
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(png(7))
    forms = {"paths": ["img/a.png"], "structs": [{"bytes": None, "path": "img/a.png"}]}
    for form, column in forms.items():
        with subtests.test(form):
            if form == "structs":
                column = pa.array(column, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
            dataset = Parquet(write(tmp_path / f"{form}.parquet", {"image": column, "kind": ["x"]}))
            index = dataset.index()
            assert index.keys.tolist() == ["img/a.png"]
            assert dataset.decode(index, 0).image[0, 0, 0] == 7


def test_maps_and_points_may_be_columns(tmp_path):
    columns = {
        "image": [png(0), png(1)],
        "mask": [png(3), None],
        "eyes": pa.array([[1.0, 2.0, 3.0, 4.0], None], pa.list_(pa.float32())),
    }
    file = write(tmp_path / "a.parquet", columns)
    dataset = Parquet(file, maps={"classes": "mask"}, points={"eyes": "eyes"})
    index = dataset.index()
    assert index.maps["classes"].present.tolist() == [True, False]
    first, second = dataset.decode(index, 0), dataset.decode(index, 1)
    assert (first.maps["classes"] == 3).all()
    assert first.points["eyes"].tolist() == [[1, 2], [3, 4]]
    assert not second.maps
    assert not second.points


def test_bad_files_are_named(tmp_path, subtests):
    image = {"image": [png(0)]}
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no parquet")
    write(tmp_path / "two" / "a.parquet", image)
    twice = pa.table([image["image"], ["x"], ["y"]], ["image", "kind", "kind"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    write(tmp_path / "two" / "b.parquet", {**image, "kind": ["x"]})
    cases = {
        "a.parquet has no column 'image' (path); did you mean 'images'": (
            write(tmp_path / "a.parquet", {"images": [png(0)]}),
            {},
        ),
        "no column 'kind' (columns.kind)": (
            write(tmp_path / "b.parquet", image),
            {"columns": {"kind": "kind"}},
        ),
        "the column 'image' is int64; expected bytes of images": (
            write(tmp_path / "c.parquet", {"image": [1]}),
            {},
        ),
        "text.parquet can't be read": (tmp_path / "text.parquet", {}),
        "nowhere.parquet can't be read: No such file": (tmp_path / "nowhere.parquet", {}),
        "empty holds no file whose name ends in .parquet": (tmp_path / "empty", {}),
        "twice.parquet has the column 'kind' more than once": (tmp_path / "twice.parquet", {}),
        "b.parquet has other columns than": (tmp_path / "two", {}),
        "the column 'box' has lists of different lengths": (
            write(tmp_path / "d.parquet", {"image": [png(0)] * 2, "box": [[1], [1, 2]]}),
            {"columns": {"box": "box"}},
        ),
    }
    for message, (file, options) in cases.items():
        with subtests.test(message), pytest.raises(MtlError) as error:
            Parquet(file, **options).index()
        assert message in str(error.value)


def test_a_row_without_an_image_is_unreadable(tmp_path):
    dataset = Parquet(write(tmp_path / "a.parquet", {"image": [png(0), None, b"no image"]}))
    index = dataset.index()
    for i in (1, 2):
        with pytest.raises(MtlError, match=rf"a.parquet:{i} is not a readable image"):
            dataset.decode(index, i)
