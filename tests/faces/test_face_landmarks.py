"""Landmarks of 300W-LP and AFLW2000, moved with the crop; the age of UTKFace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from face_files import marks, pose_mat, ramp
from mtl_faces.age import Age
from mtl_faces.face_landmarks import MIRRORED, FaceLandmarks
from mtl_faces.sources.aflw2000 import Aflw2000
from mtl_faces.sources.w300_lp import W300Lp

from mtlcore import MtlError


def test_landmarks_stay_on_their_pixels_under_every_crop(tmp_path, subtests):
    """The color of each pixel of the image says where it is."""
    points = marks(30, 40, 70, 60)
    ramp(tmp_path / "train" / "AFW_a_1.png")
    pose_mat(tmp_path / "train" / "AFW_a_1.mat", 1.0, 2.0, 3.0, pt2d=points)
    ramp(tmp_path / "aflw" / "image00002.png")
    deep = np.concatenate([points, np.ones((1, 68), np.float32)])
    pose_mat(tmp_path / "aflw" / "image00002.mat", 1.0, 2.0, 3.0, pt3d_68=deep, pt2d=points)
    for crop in ("square", "hopenet", "none"):
        for dataset in (
            W300Lp(tmp_path, crop=crop, landmarks=True),
            Aflw2000(tmp_path / "aflw", crop=crop, landmarks=True),
        ):
            with subtests.test(f"{type(dataset).__name__} {crop}"):
                index = dataset.index()
                assert index.points["landmarks"].count == 68
                sample = dataset.decode(index, 0)
                found = sample.points["landmarks"]
                x, y = np.floor(found).astype(int).T
                colors = sample.image[y, x, :2].astype(float)
                np.testing.assert_allclose(colors, np.floor(points.T), atol=1)


def test_without_the_key_nothing_changes_and_a_missing_point_is_named(tmp_path):
    ramp(tmp_path / "train" / "AFW_a_1.png")
    pose_mat(tmp_path / "train" / "AFW_a_1.mat", 1.0, 2.0, 3.0, pt2d=marks(30, 40, 70, 60, 21))
    dataset = W300Lp(tmp_path)
    assert not dataset.index().points
    assert not dataset.decode(dataset.index(), 0).points
    asked = W300Lp(tmp_path, landmarks=True)
    with pytest.raises(MtlError, match=r"AFW_a_1\.png: pt2d that holds no 68 landmarks"):
        asked.decode(asked.index(), 0)


def test_mirrored_points_of_a_symmetric_face_are_themselves():
    """The mean face of the real images is nearly symmetric, so pairs are at mirrored places."""
    assert len(MIRRORED) == 29
    assert len({number for pair in MIRRORED for number in pair}) == 58
    assert FaceLandmarks().flip_pairs == MIRRORED


@pytest.mark.slow
def test_pairs_are_mirror_images_on_real_faces(unpacked):
    root = unpacked("headpose") / "headpose"
    dataset = W300Lp(root, landmarks=True, crop="none")
    index = dataset.index()
    frontal = np.flatnonzero(np.abs(np.asarray(index.annotations["pose_deg"])).max(1) < 6)[:40]
    assert len(frontal) > 10
    found = [dataset.decode(index, int(i)).points["landmarks"] for i in frontal]
    mean = np.mean(found, 0)
    middle = mean[[27, 28, 29, 30, 33, 51, 57, 8]].mean(0)[0]
    for one, other in MIRRORED:
        assert abs(mean[one][0] + mean[other][0] - 2 * middle) < 4
        assert abs(mean[one][1] - mean[other][1]) < 4


def test_the_score_of_an_age_counts_errors_of_at_most_five_years():
    metric = Age().metrics()["cs5"]
    truth = torch.tensor([[20.0], [30.0], [40.0], [50.0]])
    metric.update(truth + torch.tensor([[5.0], [-5.5], [0.0], [12.0]]), truth)
    assert float(metric.compute()) == 0.5
    assert next(iter(Age().metrics())) == "mae"
