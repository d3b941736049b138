"""300W-LP: angles from .mat files, groups with mirrored copies, crops, the cached index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from face_files import marks, pose_mat, ramp
from mtl_faces.sources import _cache
from mtl_faces.sources.w300_lp import W300Lp
from scipy.io import savemat

from mtlcore import Index, MtlError
from mtlcore.registry.components import component_name


def face(root, key, yaw=10.0, pitch=-20.0, roll=30.0, points=None):
    if points is None:
        points = marks(30, 40, 70, 60)
    ramp(root / f"{key}.jpg")
    pose_mat(root / f"{key}.mat", yaw, pitch, roll, pt2d=points)


@pytest.fixture
def release(tmp_path):
    for part in ("AFW", "HELEN"):
        for flip, sign in (("", 1), ("_Flip", -1)):
            for pose in (0, 1, 12):
                face(tmp_path, f"{part}{flip}/{part}_1051618982_1_{pose}", yaw=sign * 5.0 * pose)
    face(tmp_path, "HELEN/HELEN_232194_1_0")
    face(tmp_path, "AFW/AFW_1051618982_2_0")  # another face of the photograph
    for photograph in ("0001", "0002"):
        face(tmp_path, f"LFPW/LFPW_image_test_{photograph}_0")
    (tmp_path / "landmarks" / "AFW").mkdir(parents=True)
    (tmp_path / "Code").mkdir()
    return tmp_path


@pytest.fixture
def shared(tmp_path):
    for split, names in (
        ("train", ["te_Abdullah_Gul_11", "te_Abdullah_Gul_50", "tr_Al-Hakim_01"]),
        ("val", ["tr_Ann_00"]),
    ):
        for name in names:
            face(tmp_path, f"{split}/{name}")
    return tmp_path


def test_its_name_starts_with_a_digit():
    assert component_name(W300Lp) == "300w_lp"


def test_angles_are_degrees_in_the_order_yaw_pitch_roll(release):
    index = W300Lp(release).index()
    frontal = index.keys.tolist().index("HELEN/HELEN_232194_1_0.jpg")
    np.testing.assert_allclose(index.annotations["pose_deg"][frontal], [10, -20, 30], atol=1e-4)
    mirrored = index.keys.tolist().index("AFW_Flip/AFW_1051618982_1_12.jpg")
    np.testing.assert_allclose(index.annotations["pose_deg"][mirrored], [-60, -20, 30], atol=1e-4)


def test_all_poses_of_a_photograph_and_their_mirrored_copies_are_one_group(release):
    index = W300Lp(release).index()
    assert len(index) == 16
    assert index.split is None
    groups = dict(zip(index.keys.tolist(), index.group.tolist()))
    assert set(groups.values()) == {
        "AFW/AFW_1051618982",
        "HELEN/HELEN_1051618982",
        "HELEN/HELEN_232194",
        "LFPW/LFPW_image_test_0001",
        "LFPW/LFPW_image_test_0002",
    }
    assert groups["AFW_Flip/AFW_1051618982_1_12.jpg"] == groups["AFW/AFW_1051618982_1_0.jpg"]
    assert groups["AFW/AFW_1051618982_2_0.jpg"] == groups["AFW/AFW_1051618982_1_0.jpg"]


def test_train_and_val_folders_are_splits_and_a_person_is_a_group(shared):
    index = W300Lp(shared).index()
    assert index.split.tolist() == ["train"] * 3 + ["val"]
    assert index.group.tolist() == ["Abdullah_Gul", "Abdullah_Gul", "Al-Hakim", "Ann"]


@pytest.mark.parametrize(("train", "val"), [("Train", "validation"), ("training", "dev")])
def test_split_folders_have_any_usual_name_and_others_are_reported(shared, train, val):
    (shared / "train").rename(shared / train)
    (shared / "val").rename(shared / val)
    (shared / "more").mkdir()
    index = W300Lp(shared).index()
    assert index.split.tolist() == ["train"] * 3 + ["val"]
    assert [key.split("/")[0] for key in index.keys.tolist()] == [train] * 3 + [val]
    assert index.skipped.notes == {f"folders not read, since only {train}, {val} are: more": 1}


def test_a_folder_beside_those_of_the_release_is_reported_also_from_the_cache(
    release, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr(_cache, "SMALLEST", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    (release / "Test").mkdir()
    for _ in range(2):
        index = W300Lp(release).index()
        assert len(index) == 16
        assert index.split is None
        (note,) = index.skipped.notes
        assert note.endswith("LFPW are: Code, Test, landmarks")


def test_a_square_crop_is_centered_on_the_landmarks(shared):
    dataset = W300Lp(shared, margin=0.25)
    index = dataset.index()
    np.testing.assert_allclose(index.annotations["box_px"][0], [20, 20, 80, 80], atol=1e-4)
    image = dataset.decode(index, 0).image
    assert image.shape == (60, 60, 3)
    assert (image[0, 0, :2] == [20, 20]).all()
    assert (image[-1, -1, :2] == [79, 79]).all()


def test_a_square_crop_never_leaves_the_image(tmp_path):
    face(tmp_path, "train/a_b_0", points=marks(70, 0, 99, 10))
    dataset = W300Lp(tmp_path, margin=0.5)
    image = dataset.decode(dataset.index(), 0).image
    assert image.shape == (58, 58, 3)
    assert (image[0, 0, :2] == [42, 0]).all()
    whole = W300Lp(tmp_path, margin=3.0)
    assert whole.decode(whole.index(), 0).image.shape == (100, 100, 3)


def test_hopenets_crop_is_widened_in_its_order_and_black_beyond_the_image(tmp_path):
    face(tmp_path, "train/a_b_0", points=marks(20, 20, 60, 70))
    dataset = W300Lp(tmp_path, crop="hopenet")
    index = dataset.index()
    k, x0, y0, x1, y1 = 0.3, 20.0, 20.0, 60.0, 70.0  # the published lines, one after the other
    x0 -= 0.6 * k * abs(x1 - x0)
    y0 -= 2 * k * abs(y1 - y0)
    x1 += 0.6 * k * abs(x1 - x0)
    y1 += 0.6 * k * abs(y1 - y0)
    np.testing.assert_allclose(index.annotations["box_px"][0], [x0, y0, x1, y1], atol=1e-4)
    image = dataset.decode(index, 0).image
    assert image.shape == (int(y1) - int(y0), int(x1) - int(x0), 3)
    assert not image[: -int(y0)].any()
    assert (image[-int(y0), 0, :2] == [int(x0), 0]).all()


def test_no_crop_gives_the_whole_image_and_no_box(shared):
    dataset = W300Lp(shared, crop="none")
    index = dataset.index()
    assert list(index.annotations) == ["pose_deg"]
    assert dataset.decode(index, 0).image.shape == (100, 100, 3)


def test_incomplete_files_are_counted_by_reason(shared):
    folder = shared / "train"
    for name in "abcdef":
        ramp(folder / f"x_{name}_0.jpg")
    savemat(folder / "x_b_0.mat", {"pt2d": marks(0, 0, 9, 9)})
    (folder / "x_c_0.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200)
    pose_mat(folder / "x_d_0.mat", 0, 0, 0)
    pose_mat(folder / "x_e_0.mat", np.nan, 0, 0, pt2d=marks(0, 0, 9, 9))
    savemat(folder / "x_f_0.mat", {"Pose_Para": "text", "pt2d": marks(0, 0, 9, 9)})
    (folder / "notes.txt").write_text("x")
    index = W300Lp(shared).index()
    assert len(index) == 4
    assert index.skipped.names == {
        "neither an image nor a .mat file": ["train/notes.txt"],
        "an image without a .mat file": ["train/x_a_0.jpg"],
        "a .mat file without Pose_Para": ["train/x_b_0.jpg"],
        "an unreadable .mat file": ["train/x_c_0.jpg"],
        "a .mat file without pt2d": ["train/x_d_0.jpg"],
        "Pose_Para that holds no angles": ["train/x_e_0.jpg"],
        "Pose_Para that holds no numbers": ["train/x_f_0.jpg"],
    }


def test_landmarks_far_from_the_image_are_an_error_of_decode(tmp_path):
    face(tmp_path, "train/a_b_0", points=marks(5000, 0, 9000, 10))
    face(tmp_path, "train/a_c_0", points=marks(200, 0, 230, 10))
    dataset = W300Lp(tmp_path)
    index = dataset.index()
    for i, message in (
        (0, "far outside of an image of 100 x 100"),
        (1, "is empty or outside of an image of 100 x 100"),
    ):
        with pytest.raises(MtlError, match=message):
            dataset.decode(index, i)


def test_a_root_without_its_folders_is_an_error(tmp_path):
    with pytest.raises(
        MtlError, match=r"holds none of the folders train \| val \| test \| AFW \| AFW_Flip"
    ):
        W300Lp(tmp_path).index()


def test_a_large_dataset_is_cached_until_a_file_is_added_or_removed(
    shared, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr(_cache, "SMALLEST", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home := tmp_path_factory.mktemp("cache")))
    first = W300Lp(shared).index()
    (cache,) = home.rglob("*.npz")
    cached = W300Lp(shared).index()
    assert cached.keys.tolist() == first.keys.tolist()
    assert cached.group.tolist() == first.group.tolist()
    np.testing.assert_array_equal(cached.annotations["pose_deg"], first.annotations["pose_deg"])
    face(shared, "val/tr_New_00")
    assert len(W300Lp(shared).index()) == 5
    cache.write_bytes(b"broken")
    (shared / "val" / "tr_New_00.jpg").unlink()
    assert len(W300Lp(shared).index()) == 4
    wider = W300Lp(shared, margin=0.5).index()
    assert wider.annotations["box_px"][0, 0] != first.annotations["box_px"][0, 0]


@pytest.mark.slow
def test_the_real_copy_has_its_known_counts(unpacked):
    dataset = W300Lp(unpacked("headpose") / "headpose")
    index = dataset.index()
    assert [(index.split == name).sum() for name in ("train", "val")] == [3431, 418]
    assert len(index.skipped) == 0
    people = [set(index.group[index.split == name].tolist()) for name in ("train", "val")]
    assert not people[0] & people[1]
    assert np.abs(index.annotations["pose_deg"]).max() < 70
    assert dataset.decode(index, 0).image.shape == (96, 96, 3)


def reader_of(file: Path, table: str) -> Callable[[], Index]:
    """Return the function of a reader module with this table of labels."""
    file.write_text(f"def read():\n    return index({table!r})\n")
    module: dict[str, Any] = {
        "index": lambda name: Index(np.array(["a", "b"]), {"mood": np.array([name, name])})
    }
    exec(compile(file.read_text(), str(file), "exec"), module)
    return module["read"]


def test_a_change_of_the_label_table_invalidates_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(_cache, "SMALLEST", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file, dataset = tmp_path / "reader.py", W300Lp(tmp_path)
    for table in ("happy", "sad", "happy"):
        index = _cache.cached_index(dataset, [], reader_of(file, table))
        assert index.annotations["mood"].tolist() == [table, table]
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 2  # the third is the first


def test_the_code_of_the_helpers_is_part_of_the_cache_key():
    code = _cache._code(test_the_code_of_the_helpers_is_part_of_the_cache_key)
    names = {file.name for file in code}
    assert {"test_300w_lp.py", "_mat.py", "_crops.py"} <= names
