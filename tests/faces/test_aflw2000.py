"""AFLW2000: one split, the limit of the benchmark, crops from complete landmarks."""

from __future__ import annotations

import numpy as np
import pytest
from face_files import marks, pose_mat, ramp
from mtl_faces.sources.aflw2000 import Aflw2000
from scipy.io import loadmat

from mtlcore import MtlError


@pytest.fixture
def root(tmp_path):
    for number, yaw in ((2, 10.0), (4, 99.0), (6, 99.5), (8, -120.0)):
        ramp(tmp_path / f"image{number:05d}.jpg")
        visible = marks(30, 40, 70, 60, n=21)
        visible[:, 5] = -1
        complete = np.concatenate([marks(30, 40, 70, 60), np.zeros((1, 68), dtype=np.float32)])
        pose_mat(tmp_path / f"image{number:05d}.mat", yaw, -5, 3, pt2d=visible, pt3d_68=complete)
    return tmp_path


def test_faces_beyond_99_degrees_are_left_out_and_reported_as_a_note(root):
    index = Aflw2000(root).index()
    assert index.keys.tolist() == ["image00002.jpg", "image00004.jpg"]
    assert index.split.tolist() == ["test", "test"]
    np.testing.assert_allclose(index.annotations["pose_deg"][0], [10, -5, 3], atol=1e-4)
    assert index.skipped.names == {}
    assert index.skipped.notes == {
        "faces left out, an angle beyond 99 degrees, as in the benchmark": 2
    }


def test_the_square_comes_from_the_complete_landmarks(root):
    dataset = Aflw2000(root, margin=0.25)
    index = dataset.index()
    np.testing.assert_allclose(index.annotations["box_px"][0], [20, 20, 80, 80], atol=1e-4)
    assert dataset.decode(index, 0).image.shape == (60, 60, 3)


def test_hopenets_crop_takes_points_that_are_minus_one_as_they_are(root):
    dataset = Aflw2000(root, crop="hopenet")
    index = dataset.index()
    k, x0, y0, x1, y1 = 0.2, -1.0, -1.0, 70.0, 60.0  # the published lines, one after the other
    x0 -= 2 * k * abs(x1 - x0)
    y0 -= 2 * k * abs(y1 - y0)
    x1 += 2 * k * abs(x1 - x0)
    y1 += 0.6 * k * abs(y1 - y0)
    np.testing.assert_allclose(index.annotations["box_px"][0], [x0, y0, x1, y1], atol=1e-4)
    assert dataset.decode(index, 0).image.shape == (int(y1) - int(y0), int(x1) - int(x0), 3)


def test_a_face_without_its_mat_file_is_counted(root):
    (root / "image00002.mat").unlink()
    index = Aflw2000(root).index()
    assert index.skipped.names["an image without a .mat file"] == ["image00002.jpg"]
    with pytest.raises(MtlError, match="is not a folder; expected a folder with image00002"):
        Aflw2000(root / "nowhere").index()


def test_the_16_real_faces_and_their_landmarks_are_inside_their_crops(unpacked):
    root = next(p for p in (unpacked("aflw2000_sample")).rglob("image*.jpg")).parent
    dataset = Aflw2000(root, landmarks=True)
    index = dataset.index()
    assert len(index) == 16
    for i, key in enumerate(index.keys.tolist()):
        mat = loadmat(root / key.replace(".jpg", ".mat"))
        pitch, yaw, roll = np.degrees(mat["Pose_Para"][0, :3])
        pose_deg = index.annotations["pose_deg"][i]
        np.testing.assert_allclose(pose_deg, [yaw, pitch, roll], rtol=1e-6)
        x0, y0, x1, y1 = index.annotations["box_px"][i]
        points = mat["pt3d_68"][:2]
        assert (points[0] >= x0).all()
        assert (points[0] <= x1).all()
        assert (points[1] >= y0).all()
        assert (points[1] <= y1).all()
        sample = dataset.decode(index, i)
        h, w, _ = sample.image.shape
        assert h == w
        corner = np.maximum(np.round([x0, y0]), 0)
        found = sample.points["landmarks"]
        assert np.abs(found - (points.T - corner)).max() <= 1
        assert (found >= 0).all()
        assert (found <= [w, h]).all()
        assert 0.2 < np.ptp(found, 0).max() / w < 1
        assert abs(h - (x1 - x0)) < 2
