"""`image_mask` and `prepared_npy`: their layouts, and each bad file with one clear message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from PIL import Image
from toy_datasets import experiment

from mtlcore import MtlError, Segmentation
from mtlcore.config.component import component
from mtlcore.data.check import check_data
from mtlcore.data.dataset import open_data
from mtlcore.data.image_mask import ImageMask
from mtlcore.data.prepared_npy import PreparedNpy
from mtlcore.evaluation.sheet import label_sheet

NUMBERS = np.array([[0, 1], [2, 1], [0, 2]], dtype=np.uint8)  # 2 x 3 pixels
TASK = Segmentation(("a", "b", "c"), reads="mask")


def photo(file: Path, size: tuple[int, int] = (2, 3)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(file)


def mask(file: Path, numbers: np.ndarray = NUMBERS) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(file)


def pair(root: Path, name: str = "1", numbers: np.ndarray = NUMBERS) -> None:
    photo(root / "images" / f"{name}.jpg")
    mask(root / "masks" / f"{name}.png", numbers)


def test_splits_are_folders_and_an_image_without_a_mask_has_no_label(tmp_path):
    pair(tmp_path / "train", "b/1")
    photo(tmp_path / "train" / "images" / "2.jpg")
    pair(tmp_path / "val", "3")
    mask(tmp_path / "val" / "masks" / "4.png")
    dataset = ImageMask(tmp_path)
    index = dataset.index()
    assert list(index.keys) == ["train/images/2.jpg", "train/images/b/1.jpg", "val/images/3.jpg"]
    assert index.split.tolist() == ["train", "train", "validation"]
    assert index.maps["mask"].present.tolist() == [False, True, True]
    assert index.skipped.names == {"a mask without an image": ["val/masks/4.png"]}
    assert list(index.skipped.notes.values()) == [1]
    assert not dataset.decode(index, 0).maps
    np.testing.assert_array_equal(dataset.decode(index, 1).maps["mask"], NUMBERS)


def test_without_splits_both_folders_lie_in_the_root_under_any_names(tmp_path):
    photo(tmp_path / "rgb" / "1.png")
    mask(tmp_path / "labels" / "1.PNG", NUMBERS)
    photo(tmp_path / "rgb" / "2.png")
    mask(tmp_path / "labels" / "2.Png", NUMBERS)
    dataset = ImageMask(tmp_path, annotation="kind", images="rgb", masks="labels")
    index = dataset.index()
    assert index.split is None
    for i in range(2):
        np.testing.assert_array_equal(dataset.decode(index, i).maps["kind"], NUMBERS)


def test_numbers_are_gray_a_palette_16_bits_or_a_table_of_colors(tmp_path, subtests):
    colors = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255)}
    rgb = np.array(list(colors.values()), dtype=np.uint8)[NUMBERS]
    palette = Image.fromarray(NUMBERS, "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    images = {
        "gray": (Image.fromarray(NUMBERS), {}, "uint8"),
        "palette": (palette, {}, "uint8"),
        "16 bits": (Image.fromarray(NUMBERS.astype(np.uint16)), {}, "uint16"),
        "colors": (Image.fromarray(rgb), colors, "uint8"),
        "a palette by its colors": (palette, dict(reversed(colors.items())), "uint8"),
    }
    for name, (image, table, dtype) in images.items():
        with subtests.test(name):
            root = tmp_path / name
            pair(root)
            image.save(root / "masks" / "1.png")
            dataset = ImageMask(root, colors=table)
            index = dataset.index()
            assert index.maps["mask"].dtype == dtype
            expected = 2 - NUMBERS if "by its" in name else NUMBERS
            np.testing.assert_array_equal(dataset.decode(index, 0).maps["mask"], expected)


def test_a_bad_mask_is_refused_with_what_to_do(tmp_path, subtests):
    rgb = np.full((3, 2, 3), 7, np.uint8)
    cases = {
        "in colors": (rgb, {}, "is in colors (RGB); expected class numbers"),
        "an unknown color": (rgb, {"colors": {"a": (0, 0, 0)}}, "6 pixels in colors that are not"),
        "another size": (NUMBERS[:2], {}, r"the mask is 2 x 2 pixels, its image 2 x 3"),
    }
    for name, (numbers, fields, expected) in cases.items():
        with subtests.test(name):
            root = tmp_path / name
            pair(root, numbers=numbers)
            dataset = ImageMask(root, **fields)
            with pytest.raises(MtlError) as error:
                dataset.decode(dataset.index(), 0)
            assert expected in str(error.value)
    with subtests.test("resized"):
        dataset = ImageMask(tmp_path / "another size", resize_masks=True)
        found = dataset.decode(dataset.index(), 0).maps["mask"]
        np.testing.assert_array_equal(found, NUMBERS[:2][[0, 1, 1]])
    with subtests.test("broken"):
        pair(tmp_path / "broken")
        (tmp_path / "broken" / "masks" / "1.png").write_bytes(b"\x89PNG no")
        dataset = ImageMask(tmp_path / "broken")
        with pytest.raises(MtlError, match=r"1\.png is not a readable image"):
            dataset.decode(dataset.index(), 0)


def test_two_masks_of_one_image_are_refused(tmp_path):
    pair(tmp_path)
    mask(tmp_path / "masks" / "1.tif")
    with pytest.raises(MtlError, match=r"masks/1\.png and masks/1\.tif are masks of one image"):
        ImageMask(tmp_path).index()


def test_a_wrong_folder_or_setting_is_refused(tmp_path, subtests):
    photo(tmp_path / "half" / "images" / "1.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "none" / "images").mkdir(parents=True)
    (tmp_path / "none" / "masks").mkdir()
    for fields, expected in (
        ({"root": tmp_path / "no"}, "is not a folder"),
        ({"root": tmp_path / "half"}, "no folder 'masks'"),
        ({"root": tmp_path / "empty"}, "neither a folder 'images' nor"),
        ({"root": tmp_path / "none"}, "holds no image"),
        ({"root": tmp_path, "colors": {"a": [1, 2]}}, r"colors.a = \[1, 2\]"),
        ({"root": tmp_path, "colors": {"a": [1, 2, 3], "b": [1, 2, 3]}}, "a color twice"),
    ):
        with subtests.test(expected), pytest.raises(Exception, match=expected):
            component("dataset", "image_mask", **fields).index()


def test_a_label_that_its_task_can_not_use_is_a_bad_file_of_the_run(tmp_path):
    for number in range(8):
        pair(tmp_path / "train", str(number), NUMBERS + 1 if number == 3 else NUMBERS)
        pair(tmp_path / "val", str(number))
    exp = experiment({"camvid": ImageMask(tmp_path)}, {"seg": TASK})
    entry = evolve(exp.data["camvid"], max_bad=1)
    exp = evolve(exp, data={"camvid": entry}, input=evolve(exp.input, size=(3, 2)))
    data = open_data(exp).data
    assert len(data.split["train"]) == 7
    line = next(line for line in data.report if "task.seg" in line)
    assert "train/images/3.jpg" in line
    assert "class numbers 3 at 2 pixels; expected 0 to 2" in line


# ------------------------------------------------------------ prepared_npy


def prepared(folder: Path, number: int, normal: bool = True) -> None:
    rng = np.random.default_rng(number)
    arrays = {
        "image": rng.random((4, 6, 3)),
        "label": rng.integers(-1, 13, (4, 6)).astype(np.float64),
        "depth": rng.random((4, 6, 1)),
    }
    if normal:
        arrays["normal"] = rng.random((4, 6, 3)).astype(np.float32)
    for name, array in arrays.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        np.save(folder / name / f"{number}.npy", array)


def test_prepared_arrays_are_read_in_libmtls_layout(tmp_path):
    for number in (0, 2, 10):
        prepared(tmp_path / "train", number, normal=number != 2)
    prepared(tmp_path / "val", 0)
    dataset = PreparedNpy(tmp_path)
    index = dataset.index()
    assert list(index.keys) == [
        *(f"train/image/{number}.npy" for number in (0, 2, 10)),
        "val/image/0.npy",
    ]
    assert index.split.tolist() == ["train"] * 3 + ["validation"]
    assert index.maps["normal"].present.tolist() == [True, False, True, True]
    sample = dataset.decode(index, 1)
    assert set(sample.maps) == {"label", "depth"}
    folder = tmp_path / "train"
    np.testing.assert_array_equal(sample.maps["label"], np.load(folder / "label/2.npy"))
    assert sample.maps["depth"].shape == (4, 6)
    brightness = np.load(folder / "image/2.npy")
    np.testing.assert_allclose(sample.image / 255, brightness, atol=0.5 / 255 + 1e-6)
    task = Segmentation(tuple("abcdefghijklm"), ignore_index=-1)
    assert task.fault(sample.maps["label"], (4, 6)) is None


def test_a_broken_prepared_array_is_refused(tmp_path):
    prepared(tmp_path / "train", 0)
    (tmp_path / "train" / "depth" / "0.npy").write_bytes(b"no")
    dataset = PreparedNpy(tmp_path)
    with pytest.raises(MtlError, match=r"train/depth/0\.npy is not a readable"):
        dataset.decode(dataset.index(), 0)
    with pytest.raises(MtlError, match="no folder of a split"):
        PreparedNpy(tmp_path / "train").index()


def test_the_check_counts_masks_draws_them_and_finds_bad_ones(tmp_path):
    for number in range(4):
        pair(tmp_path / "train", str(number), NUMBERS + 1 if number == 3 else NUMBERS)
    exp = experiment({"camvid": ImageMask(tmp_path)}, {"seg": TASK}, size=(3, 2))
    report = check_data(exp, "camvid")
    assert report.counts["mask"] == {"train": {"given": 4}}
    assert list(report.unreadable) == ["train/images/3.jpg"]
    drawn = label_sheet(exp, report)
    plain = label_sheet(evolve(exp, tasks={}), report)
    assert drawn.shape[0] >= 128
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > len(
        np.unique(plain.reshape(-1, 3), axis=0)
    )
