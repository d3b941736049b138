"""CelebA: gender, forty attributes by name, and the official partition."""

from __future__ import annotations

import pytest
from face_files import image
from mtl_faces.sources.celeba import ATTRIBUTES, Celeba

from mtlcore import MtlError

HAS = [{"Male", "Young"}, {"Smiling"}, set(), {"Male", "Eyeglasses"}]


def written(root, names=ATTRIBUTES, end="txt"):
    """Write the images and both tables, and return the root."""
    images = [f"{i + 1:06d}.jpg" for i in range(len(HAS))]
    values = [["1" if name in has else "-1" for name in names] for has in HAS]
    if end == "txt":
        lines = [str(len(HAS)), " ".join(names) + " "]
        lines += [f"{p}  {'  '.join(v)}" for p, v in zip(images, values)]
        parts = [f"{p} {i % 3}" for i, p in enumerate(images)]
    else:
        lines = [",".join(["image_id", *names])]
        lines += [",".join([p, *v]) for p, v in zip(images, values)]
        parts = ["image_id,partition", *(f"{p},{i % 3}" for i, p in enumerate(images))]
    (root / f"list_attr_celeba.{end}").write_text("\n".join(lines) + "\n")
    (root / f"list_eval_partition.{end}").write_text("\n".join(parts) + "\n")
    for i, name in enumerate(images):
        image(root / "img_align_celeba" / name, 10 * i)
    return root


@pytest.mark.parametrize("end", ["txt", "csv"])
def test_attributes_are_read_by_name_in_any_order_of_columns(tmp_path, end):
    index = Celeba(written(tmp_path, tuple(reversed(ATTRIBUTES)), end)).index()
    assert index.annotations["gender"].tolist() == ["male", "female", "female", "male"]
    assert index.annotations["attributes"].tolist() == [
        "Male|Young",
        "Smiling",
        "|",
        "Eyeglasses|Male",
    ]
    assert index.split.tolist() == ["train", "validation", "test", "train"]
    assert len(index.skipped) == 0


def test_only_the_configured_attributes_are_read(tmp_path):
    index = Celeba(written(tmp_path), attributes=("Young", "Smiling")).index()
    assert index.annotations["attributes"].tolist() == ["Young", "Smiling", "|", "|"]
    assert index.annotations["gender"].tolist() == ["male", "female", "female", "male"]


def test_an_unknown_attribute_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ValueError, match="no attribute 'Smilin'; did you mean 'Smiling'"):
        Celeba(tmp_path, attributes=("Smilin",))


def test_the_tables_may_be_in_the_folders_of_the_release(tmp_path):
    written(tmp_path)
    for below, name in (("Anno", "list_attr_celeba.txt"), ("Eval", "list_eval_partition.txt")):
        (tmp_path / below).mkdir()
        (tmp_path / name).rename(tmp_path / below / name)
    (tmp_path / "Img").mkdir()
    (tmp_path / "img_align_celeba").rename(tmp_path / "Img" / "img_align_celeba")
    dataset = Celeba(tmp_path)
    index = dataset.index()
    grays = [round(int(dataset.decode(index, i).image[0, 0, 0]), -1) for i in range(4)]
    assert grays == [0, 10, 20, 30]


def test_bad_rows_are_counted(tmp_path):
    written(tmp_path)
    path = tmp_path / "list_attr_celeba.txt"
    values = " ".join(["1"] * 40)
    path.write_text(
        path.read_text()
        + f"000009.jpg {values}\n000001.jpg {values}\n../x.jpg {values}\n000010.jpg 1 2\n"
    )
    index = Celeba(tmp_path).index()
    assert len(index) == 4
    assert index.skipped.names == {
        "a row that is not an image and 40 values of 1 or -1": [
            "000001.jpg",
            "../x.jpg",
            "000010.jpg",
        ],
        "an image that list_eval_partition does not place": ["000009.jpg"],
    }


def test_missing_files_are_errors_that_name_them(tmp_path):
    with pytest.raises(MtlError, match="holds none of the folders"):
        Celeba(tmp_path).index()
    (tmp_path / "img_align_celeba").mkdir()
    with pytest.raises(MtlError, match=r"holds no list_eval_partition.txt"):
        Celeba(tmp_path).index()
    written(tmp_path, ATTRIBUTES[:-1])
    with pytest.raises(MtlError, match="must name the dataset's 40 attributes"):
        Celeba(tmp_path).index()
