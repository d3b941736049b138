"""BIWI: rotations in the camera's axes become the angles of 300W-LP."""

from __future__ import annotations

import numpy as np
import pytest
from face_files import image, ramp
from hypothesis import given
from hypothesis import strategies as st
from mtl_faces.sources import _cache
from mtl_faces.sources.biwi import Biwi, angles_deg

from mtlcore import MtlError

CAL = """517.679 0 320
0 517.679 240.5
0 0 1

0 0 0 0

1 0 0
0 1 0
0 0 1

0 0 0

640 480
"""


def turn(axis: int, degrees: float) -> np.ndarray:
    """Return a right-handed rotation about one axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    r = np.eye(3)
    r[i, i] = r[j, j] = c
    r[i, j], r[j, i] = -s, s
    return r


def frame(root, video, number, rotation, center=(0.0, 0.0, 1000.0)):
    ramp(root / video / f"frame_{number:05d}_rgb.png", size=200)
    lines = [" ".join(f"{v:.6f}" for v in row) + " " for row in rotation]
    text = "\n".join([*lines, "", " ".join(f"{v:.4f}" for v in center) + " "]) + "\n"
    (root / video / f"frame_{number:05d}_pose.txt").write_text(text)


def published(rotation):
    """Compute the angles as Hopenet's reader does: it transposes the matrix first."""
    r = rotation.T
    roll = -np.arctan2(r[1][0], r[0][0]) * 180 / np.pi
    yaw = -np.arctan2(-r[2][0], np.sqrt(r[2][1] ** 2 + r[2][2] ** 2)) * 180 / np.pi
    pitch = np.arctan2(r[2][1], r[2][2]) * 180 / np.pi
    return yaw, pitch, roll


angle = st.floats(-80, 80)


@given(yaw=angle, pitch=angle, roll=angle)
def test_the_angles_rebuild_the_rotation_and_are_the_published_ones(yaw, pitch, roll):
    flip = np.diag([1.0, 1.0, -1.0])
    ours = turn(0, pitch) @ turn(1, -yaw) @ turn(2, roll)
    camera = flip @ ours @ flip
    np.testing.assert_allclose(angles_deg(camera), [yaw, pitch, roll], atol=1e-6)
    np.testing.assert_allclose(published(camera), [yaw, pitch, roll], atol=1e-6)


@given(yaw=st.floats(5, 80), pitch=st.floats(5, 80))
def test_a_face_that_looks_to_the_left_and_up_has_positive_angles(yaw, pitch):
    flip = np.diag([1.0, 1.0, -1.0])
    camera = flip @ turn(0, pitch) @ turn(1, -yaw) @ flip
    nose = camera @ np.array([0.0, 0.0, -1.0])  # the camera's z points away from it
    assert nose[0] < 0  # left in the image
    assert nose[1] < 0  # up
    assert nose[2] < 0 or pitch + yaw > 90
    assert (angles_deg(camera)[:2] > 0).all()


@pytest.fixture
def videos(tmp_path):
    for video in ("01", "16", "17", "24"):
        frame(tmp_path, video, 3, np.eye(3))
        frame(tmp_path, video, 4, turn(2, 20.0))
        (tmp_path / video / "rgb.cal").write_text(CAL)
        (tmp_path / video / "frame_00003_depth.bin").write_bytes(b"x")
    (tmp_path / "01.obj").write_text("x")
    return tmp_path


def test_frames_are_in_the_test_split_with_videos_as_groups_and_a_fold_for_training(videos):
    index = Biwi(videos).index()
    assert index.keys[:2].tolist() == ["01/frame_00003_rgb.png", "01/frame_00004_rgb.png"]
    pose_deg = index.annotations["pose_deg"][:2]
    np.testing.assert_allclose(pose_deg, [[0, 0, 0], [0, 0, 20]], atol=1e-4)
    assert set(index.split.tolist()) == {"test"}
    assert index.group.tolist() == ["01", "01", "16", "16", "17", "17", "24", "24"]
    assert index.attributes["fold"].tolist() == ["train"] * 4 + ["test"] * 4
    assert len(index.skipped) == 0


def test_the_crop_is_centered_on_the_projected_head(tmp_path):
    frame(tmp_path, "01", 3, np.eye(3), center=(-425.0, -270.0, 1000.0))
    dataset = Biwi(tmp_path, face_mm=100.0)
    index = dataset.index()
    center = np.array([320, 240.5]) + 517.679 * np.array([-0.425, -0.27])
    half = 517.679 * 0.05
    np.testing.assert_allclose(index.annotations["box_px"][0], [*(center - half), *(center + half)])
    image = dataset.decode(index, 0).image
    assert image.shape == (51, 51, 3)
    assert np.abs(image[25, 25, :2] - center).max() < 2
    whole = Biwi(tmp_path, crop="none")
    assert whole.decode(whole.index(), 0).image.shape == (200, 200, 3)


def test_broken_pose_files_and_calibrations_are_counted(videos):
    (videos / "01" / "frame_00003_pose.txt").unlink()
    (videos / "01" / "frame_00004_pose.txt").write_text("1 0 0\n0 1 0\n")
    frame(videos, "16", 3, 2 * np.eye(3))
    frame(videos, "16", 4, np.eye(3), center=(0, 0, -5))
    (videos / "17" / "frame_00003_pose.txt").write_text("a b c")
    (videos / "24" / "rgb.cal").write_text("nothing")
    index = Biwi(videos).index()
    assert index.keys.tolist() == [
        "17/frame_00004_rgb.png",
        "24/frame_00003_rgb.png",
        "24/frame_00004_rgb.png",
    ]
    assert index.skipped.names == {
        "no readable pose file": ["01/frame_00003_rgb.png", "17/frame_00003_rgb.png"],
        "a pose file that does not hold twelve numbers": ["01/frame_00004_rgb.png"],
        "a pose file without a rotation": ["16/frame_00003_rgb.png"],
        "a head behind the camera": ["16/frame_00004_rgb.png"],
    }
    assert index.skipped.notes == {
        "videos with an unreadable rgb.cal: used with the Kinect's nominal values": 1
    }


def test_a_cached_index_has_the_reasons_and_notes_of_skipped_samples(
    videos, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr(_cache, "SMALLEST", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home := tmp_path_factory.mktemp("cache")))
    (videos / "24" / "rgb.cal").write_text("nothing")
    (videos / "01" / "frame_00003_pose.txt").unlink()
    first, again = Biwi(videos).index(), Biwi(videos).index()
    assert len(list(home.rglob("*.npz"))) == 1
    assert first.skipped.names == {"no readable pose file": ["01/frame_00003_rgb.png"]}
    assert again.skipped.names == first.skipped.names
    assert again.skipped.notes == first.skipped.notes
    assert list(again.skipped.notes.values()) == [1]


def test_an_npz_copy_is_bgr_with_yaw_pitch_roll(tmp_path):
    pixels = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    pixels[:, ..., 0], pixels[:, ..., 2] = 10, 30
    pose = np.array([[1.0, 2, 3], [4, 5, 6], [np.nan, 0, 0]])
    np.savez(tmp_path / "biwi.npz", image=pixels, pose=pose)
    dataset = Biwi(tmp_path / "biwi.npz")
    index = dataset.index()
    assert index.annotations["pose_deg"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert dataset.decode(index, 1).image[0, 0].tolist() == [30, 0, 10]
    assert index.skipped.names == {"a pose that holds no numbers": ["row 00002"]}


def test_other_files_and_folders_are_errors(tmp_path):
    with pytest.raises(MtlError, match="does not exist; expected the folder of 01"):
        Biwi(tmp_path / "nowhere").index()
    with pytest.raises(MtlError, match=r"holds none of the folders 01 \.\.\. 24"):
        Biwi(tmp_path).index()
    image(tmp_path / "x.npz.png").rename(tmp_path / "x.npz")
    with pytest.raises(MtlError, match=r"is not an .npz file with the arrays image and pose"):
        Biwi(tmp_path / "x.npz").index()
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "y.npz", image=images, pose=np.zeros((3, 3)))
    with pytest.raises(MtlError, match=r"pose must be \(2, 3\), one row per image"):
        Biwi(tmp_path / "y.npz").index()
    np.savez(tmp_path / "z.npz", image=images[..., 0], pose=np.zeros((2, 3)))
    with pytest.raises(MtlError, match=r"expected image \(N, S, S, 3\) uint8.*got \(2, 8, 8\)"):
        Biwi(tmp_path / "z.npz").index()
