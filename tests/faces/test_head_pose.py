"""Head pose: the convention of the labels, and labels that follow the pixels.

Both are checked on rendered and on real landmarks.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mtl_faces.head_pose import HeadPose, HeadPoseHead
from mtl_faces.rotations import (
    chordal_mean,
    from_6d,
    geodesic_rad,
    mirror,
    to_6d,
    to_matrix,
    to_pose_deg,
    wrapped_deg,
)
from mtl_faces.synth import LANDMARKS, labels, landmarks
from toys import rotations

from mtlcore import Features, Geometry, MtlError, orthogonal
from mtlcore.geometry import similarity
from mtlcore.rng import KeyedRng

POSE = HeadPose()


def degrees(*angles: float) -> torch.Tensor:
    return torch.tensor([angles], dtype=torch.float64)


def some_rotations(n: int = 64, seed: int = 0) -> torch.Tensor:
    return rotations(n, torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------- angles, matrices


def test_angles_rotate_a_head_by_the_convention_of_the_labels():
    """The nose points out of the image (z); x is to the image's right, y down."""
    nose, right, half = 2, 0, math.sqrt(0.5)
    left = to_matrix(degrees(45, 0, 0))[0, :, nose]
    assert left.tolist() == pytest.approx([-half, 0, half])
    up = to_matrix(degrees(0, 45, 0))[0, :, nose]
    assert up.tolist() == pytest.approx([0, -half, half])
    clockwise = to_matrix(degrees(0, 0, 45))[0, :, right]
    assert clockwise.tolist() == pytest.approx([half, half, 0])
    pinned = [
        [0.76604444, 0, -0.64278761],
        [-0.32139380, 0.86602540, -0.38302222],
        [0.55667040, 0.5, 0.66341395],
    ]
    found = to_matrix(degrees(40, 30, 0))[0]
    torch.testing.assert_close(found, torch.tensor(pinned, dtype=torch.float64))


def test_a_turn_of_the_image_changes_all_three_angles_of_a_turned_head():
    """20 degrees at yaw 40, calculated by hand."""
    turn = similarity(
        torch.tensor([math.radians(-20)]),
        torch.ones(1),
        torch.zeros(1, dtype=torch.bool),
        (64, 64),
        (64, 64),
    )
    moved = POSE.move(to_matrix(degrees(40, 0, 0)).float(), Geometry.affine(turn, (64, 64)))
    assert to_pose_deg(moved)[0].tolist() == pytest.approx([37.2, 16.0, 25.4], abs=0.1)


@given(st.floats(-99, 99), st.floats(-85, 85), st.floats(-85, 85))
def test_angles_come_back_from_the_matrix(yaw, pitch, roll):
    """Except at the two poles, where pitch and roll are not unique."""
    if abs(abs(yaw) - 90) > 0.1:
        pose_deg = degrees(yaw, pitch, roll)
        torch.testing.assert_close(to_pose_deg(to_matrix(pose_deg)), pose_deg, atol=1e-6, rtol=0)


@given(st.integers(0, 2**31))
def test_a_matrix_comes_back_from_its_angles_and_from_its_six_numbers(seed):
    r = some_rotations(8, seed)  # orthonormal to fp32
    torch.testing.assert_close(to_matrix(to_pose_deg(r)), r, atol=1e-5, rtol=0)
    torch.testing.assert_close(from_6d(to_6d(r)), r, atol=1e-5, rtol=0)


@given(st.integers(0, 2**31))
def test_any_six_numbers_make_a_rotation(seed):
    r = from_6d(torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)))
    # Two columns at a small angle lose digits: rounding of fp32 over the sine of that angle.
    torch.testing.assert_close(r @ r.mT, torch.eye(3).expand(16, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(16), atol=1e-4, rtol=0)


def test_six_numbers_that_make_no_rotation_have_a_bounded_gradient():
    for broken in ([0.0] * 6, [1.0, 0, 0, 1, 0, 0]):
        six = torch.tensor([broken], requires_grad=True)
        geodesic_rad(from_6d(six), torch.eye(3)[None]).sum().backward()
        assert six.grad is not None
        assert six.grad.isfinite().all()


# -------------------------------------------------------------------------------------------- loss


def head(dim: int = 5) -> HeadPoseHead:
    torch.manual_seed(0)
    return HeadPoseHead(dim, 0.0)


def test_the_loss_is_the_angle_between_the_rotations():
    a, b = some_rotations(200, 1), some_rotations(200, 2)
    trace = torch.einsum("bij,bij->b", a.double(), b.double())
    expected = torch.acos(((trace - 1) / 2).clamp(-1, 1))
    loss = head().loss(to_6d(a), b)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, atol=2e-5, rtol=0)


def test_angles_and_distances_accept_any_leading_dimensions():
    a, b = some_rotations(6), some_rotations(6, 1)
    grid_a, grid_b = a.unflatten(0, (2, 3)), b.unflatten(0, (2, 3))
    assert torch.equal(to_pose_deg(grid_a).flatten(0, 1), to_pose_deg(a))
    assert torch.equal(geodesic_rad(grid_a, grid_b).flatten(), geodesic_rad(a, b))


def test_the_loss_of_the_ideal_output_is_0_and_it_decodes_to_the_target():
    target = some_rotations()
    # Radians; the epsilon below the root alone gives 1e-6.
    assert head().loss(head().ideal(target), target).max() < 2e-5
    torch.testing.assert_close(POSE.decode(head().ideal(target)), target, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.01), (torch.bfloat16, 0.5)])
def test_the_gradient_is_finite_at_every_angle(dtype, tolerance):
    truth = to_matrix(degrees(20, -10, 5)).float()
    for apart_deg in (0.0, 0.01, 1.0, 90.0, 179.99, 180.0):
        turned = to_matrix(degrees(0, 0, apart_deg)).float() @ truth
        output = to_6d(turned).to(dtype).requires_grad_()
        loss = head().loss(output, truth)
        loss.sum().backward()
        assert loss.dtype == torch.float32
        assert output.grad is not None
        assert output.grad.isfinite().all(), apart_deg
        assert abs(math.degrees(loss.item()) - apart_deg) < tolerance
        if 0.005 < apart_deg < 179.9 and dtype == torch.float32:
            # acos of the trace has no gradient below 0.028 degrees.
            assert output.grad.norm() > 0.1, apart_deg


def test_the_loss_is_not_rounded_by_autocast():
    a, b = some_rotations(32, 1), some_rotations(32, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head().loss(to_6d(a), b), head().loss(to_6d(a), b).float())
        rounded = head().loss(to_6d(a), b)
    assert torch.equal(rounded, head().loss(to_6d(a), b))


def test_samples_without_a_label_have_a_finite_loss_and_gradient():
    output = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = head().loss(output, torch.zeros(4, 3, 3))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_gradient_descent_finds_a_rotation_from_the_opposite_one():
    truth = to_matrix(degrees(30, 20, -10)).float()
    six = to_6d(to_matrix(degrees(-140, 10, 60)).float()).requires_grad_()
    optimizer = torch.optim.Adam([six], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        head().loss(six, truth).sum().backward()
        optimizer.step()
    assert math.degrees(head().loss(six, truth).item()) < 3


# ----------------------------------------------------------------------------------------- targets


def test_drawn_examples_fill_the_documented_range_of_each_angle():
    widest_deg = np.abs(POSE.examples(4000, KeyedRng((0,))("examples"))).max(0)
    assert np.all(widest_deg <= [70, 50, 40])
    assert np.all(widest_deg >= [69, 49, 39])


def test_missing_angles_are_absent_and_leave_zeros():
    annotation = np.array([[10, 20, 30], [np.nan] * 3, [1, np.nan, 2]], dtype=np.float32)
    target, present = POSE.target(annotation)
    assert present.tolist() == [True, False, False]
    assert (target.shape, target.dtype) == ((3, 3, 3), torch.float32)
    assert not target[1:].any()
    expected = torch.tensor([[10.0, 20, 30]])
    torch.testing.assert_close(to_pose_deg(target[:1]), expected, atol=1e-4, rtol=0)
    empty, none_present = POSE.target(np.zeros((0, 3)))
    assert (empty.shape, none_present.shape) == ((0, 3, 3), (0,))


@pytest.mark.parametrize(
    "annotation", [np.zeros(12), np.zeros((6, 2)), np.array(["a", "b", "c"])], ids=str
)
def test_an_annotation_that_is_not_three_angles_is_refused(annotation):
    with pytest.raises(MtlError, match=r"needs three numbers, yaw, pitch and roll in degrees"):
        HeadPose().target(annotation)


def test_a_mirrored_face_keeps_its_pitch_and_changes_the_sign_of_yaw_and_roll():
    flip = torch.tensor([[[-1.0, 0, 64], [0, 1, 0], [0, 0, 1]]])
    moved = POSE.move(to_matrix(degrees(40, 15, -25)).float(), Geometry.affine(flip, (64, 64)))
    assert to_pose_deg(moved)[0].tolist() == pytest.approx([-40, 15, 25], abs=1e-4)
    mirrored = mirror(to_matrix(degrees(40, 15, -25)))
    torch.testing.assert_close(mirrored, to_matrix(degrees(-40, 15, 25)))


def test_an_image_that_is_cropped_scaled_and_slightly_stretched_keeps_its_pose():
    matrix = torch.tensor([[[0.52, 0.0, -7.0], [0.0, 0.5, 3.0], [0.0, 0.0, 1.0]]])
    r = some_rotations(1)
    moved = POSE.move(r, Geometry.affine(matrix, (48, 48)))
    torch.testing.assert_close(moved, r, atol=1e-6, rtol=0)


def random_moves(n: int, size: int, seed: int) -> torch.Tensor:
    u = torch.rand(3, n, generator=torch.Generator().manual_seed(seed))
    return similarity((u[0] * 2 - 1) * 0.6, 0.6 + 0.4 * u[1], u[2] < 0.5, (size, size), (48, 48))


def zoom(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.det(matrix[:, :2, :2]).abs().sqrt()


def test_rendered_landmarks_that_move_with_the_pixels_are_those_of_the_moved_pose():
    index, matrix = torch.arange(128), random_moves(128, 64, seed=1)
    target, _ = POSE.target(labels(index, 0).pose_deg.numpy())
    points = (matrix[:, :2, :2] @ landmarks(index, 64, 0).mT + matrix[:, :2, 2:]).mT
    swapped = [LANDMARKS.index(_other_side(name)) for name in LANDMARKS]
    flip = torch.linalg.det(matrix) < 0
    assert 40 < int(flip.sum()) < 90
    points = torch.where(flip[:, None, None], points[:, swapped], points)
    moved = POSE.move(target, Geometry.affine(matrix, (48, 48)))
    expected = landmarks(index, 64, 0, to_pose_deg(moved))
    # Relative to the head's center, in pixels of the raw image.
    got = (points - points[:, -1:]) / zoom(matrix)[:, None, None]
    error = (got - (expected - expected[:, -1:])).abs().amax((1, 2))
    assert error[~flip].max() < 1e-3
    # A mirrored face differs a little: smiles are not symmetric.
    assert error[flip].max() < 0.03


def _other_side(name: str) -> str:
    first, separator, rest = name.partition("_")
    return {"left": "right", "right": "left"}.get(first, first) + separator + rest


# -------------------------------------------------------------------------------------- real faces

# The 68 points of a mirrored face by their old indices: jaw, brows, nose, eyes, mouth.
SWAPPED = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]  # fmt: skip


@pytest.fixture(scope="module")
def aflw2000(unpacked) -> tuple[torch.Tensor, np.ndarray]:
    """Read pt3d_68 (16, 3, 68) in pixels, and pose_deg (16, 3) as yaw, pitch, roll."""
    loadmat = pytest.importorskip("scipy.io").loadmat
    files = sorted(Path(unpacked("aflw2000_sample")).rglob("*.mat"))
    assert len(files) == 16
    read = [loadmat(f) for f in files]
    pitch_yaw_roll = np.degrees(np.stack([m["Pose_Para"][0, :3] for m in read]))
    points = torch.from_numpy(np.stack([m["pt3d_68"] for m in read])).double()
    return points, pitch_yaw_roll[:, [1, 0, 2]]


def kabsch(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the best rotation from one cloud of points (3, P) to another."""
    u, _, vt = torch.linalg.svd((b - b.mean(1, keepdim=True)) @ (a - a.mean(1, keepdim=True)).T)
    sign = float(torch.linalg.det(u @ vt).sign())
    return (u * torch.tensor([1, 1, sign], dtype=u.dtype)) @ vt


def misfit_deg(points: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return, for each pair of faces, the angle between the turns of points and of labels."""
    of_points, of_labels = [], []
    for i, j in itertools.combinations(range(len(points)), 2):
        of_points.append(kabsch(points[i], points[j]))
        of_labels.append((rotation[j] @ rotation[i].T).double())
    return geodesic_rad(torch.stack(of_points), torch.stack(of_labels)) * (180 / math.pi)


def moved_points(points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Move points (B, 3, 68) with their images; mirrored faces get the indices of their points."""
    flat = matrix[:, :2, :2] @ points[:, :2] + matrix[:, :2, 2:]
    both = torch.cat([flat, zoom(matrix)[:, None, None] * points[:, 2:]], 1)
    return torch.where((torch.linalg.det(matrix) < 0)[:, None, None], both[:, :, SWAPPED], both)


def test_real_faces_fit_their_labels_only_in_this_convention(aflw2000):
    points, pose_deg = aflw2000
    target, _ = POSE.target(pose_deg)
    other_order = to_matrix(-torch.from_numpy(pose_deg)).mT  # Rz(roll) Ry(-yaw) Rx(pitch)
    other_yaw = to_matrix(torch.from_numpy(pose_deg * [-1, 1, 1]))
    assert misfit_deg(points, target).median() < 2
    assert misfit_deg(points, other_order).median() > 8
    assert misfit_deg(points, other_yaw).median() > 30


def test_real_faces_that_are_rotated_and_mirrored_fit_the_moved_label(aflw2000):
    """Each face has its own rotation, crop and mirror; labels moved in another way do not fit."""
    points, pose_deg = aflw2000
    matrix = random_moves(16, 450, seed=0)
    assert 4 < int((torch.linalg.det(matrix) < 0).sum()) < 12
    target, _ = POSE.target(pose_deg)
    before = misfit_deg(points, target)
    geometry = Geometry.affine(matrix, (48, 48))
    shown = moved_points(points, matrix.double())

    def change(moved):
        return (misfit_deg(shown, moved) - before).abs().median()

    assert change(POSE.move(target, geometry)) < 0.1
    assert change(target) > 5
    assert change(in_the_other_order(pose_deg, geometry)) > 1
    assert change(in_roll_alone(pose_deg, geometry)) > 1


def in_the_other_order(pose_deg: np.ndarray, geometry: Geometry) -> torch.Tensor:
    """Move the labels as if the angles meant Rz Ry Rx."""
    meant = to_matrix(-torch.from_numpy(pose_deg)).mT.float()
    return to_matrix(-to_pose_deg(POSE.move(meant, geometry).mT))


def in_roll_alone(pose_deg: np.ndarray, geometry: Geometry) -> torch.Tensor:
    """Move the labels as if a rotation of the image changed the roll alone."""
    turn, mirrors = orthogonal(geometry.matrix)
    sign = torch.where(mirrors, -1.0, 1.0)
    yaw, pitch, roll = torch.from_numpy(pose_deg).float().unbind(1)
    roll_deg = sign * roll + torch.rad2deg(torch.atan2(-turn[:, 0, 1], turn[:, 1, 1]))
    return to_matrix(torch.stack([sign * yaw, pitch, roll_deg], 1))


# --------------------------------------------------------------------- metrics, averages, drawings


def test_metrics_are_mean_errors_in_degrees_for_any_batch_size():
    g = torch.Generator().manual_seed(3)
    true_deg = (torch.rand(101, 3, generator=g) * 2 - 1) * torch.tensor([80.0, 60, 60])
    predicted_deg = true_deg + torch.randn(101, 3, generator=g) * 5
    expected = (predicted_deg - true_deg).abs().mean(0)
    for size in (1, 7, 101):
        metrics = POSE.metrics()
        for start in range(0, 101, size):
            part = slice(start, start + size)
            for metric in metrics.values():
                metric.update(to_matrix(predicted_deg[part]), to_matrix(true_deg[part]))
        found = {name: float(metric.compute()) for name, metric in metrics.items()}
        by_axis = [found[f"mae_{k}"] for k in ("yaw", "pitch", "roll")]
        assert by_axis == pytest.approx(expected.tolist(), abs=1e-3)
        assert found["mae"] == pytest.approx(float(expected.mean()), abs=1e-3)
        angles = geodesic_rad(to_matrix(predicted_deg), to_matrix(true_deg)).rad2deg()
        assert found["geodesic"] == pytest.approx(float(angles.mean()), abs=1e-3)
    assert next(iter(metrics)) == "mae"
    assert all(metric.higher_is_better is False for metric in metrics.values())


def test_differences_wrap_at_a_full_turn_and_not_at_half_of_it():
    wrapped = wrapped_deg(torch.tensor([358.0, -359.0, 181.0, 10.0]))
    assert wrapped.tolist() == [-2.0, 1.0, -179.0, 10.0]
    metrics = POSE.metrics()
    metrics["mae_roll"].update(to_matrix(degrees(0, 0, 179)), to_matrix(degrees(0, 0, -179)))
    metrics["mae"].update(to_matrix(degrees(0, 0, 180)), to_matrix(degrees(0, 0, 0)))
    assert float(metrics["mae_roll"].compute()) == pytest.approx(2, abs=1e-3)
    assert float(metrics["mae"].compute()) == pytest.approx(60, abs=1e-3)


def test_a_yaw_beyond_ninety_degrees_is_one_degree_from_its_neighbor():
    metric = POSE.metrics()["mae"]
    metric.update(to_matrix(degrees(89, 5, -3)), to_matrix(degrees(92, 5, -3)))
    assert float(metric.compute()) == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 2**31))
def test_the_average_with_the_own_mirror_image_changes_nothing(seed):
    r = some_rotations(8, seed)
    torch.testing.assert_close(POSE.average(r, mirror(r)), r, atol=1e-5, rtol=0)


def test_the_mean_of_two_rotations_is_halfway():
    a, b = some_rotations(64, 4), some_rotations(64, 5)
    mean = chordal_mean(a, b)
    apart = geodesic_rad(a, b)
    torch.testing.assert_close(geodesic_rad(mean, a), apart / 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(geodesic_rad(mean, b), apart / 2, atol=1e-3, rtol=0)


def test_the_head_outputs_six_numbers_per_image():
    pooled = torch.randn(3, 5)
    assert head()(Features((), pooled, pooled)).shape == (3, 6)


def test_the_drawing_shows_where_the_nose_points():
    """Looking to the image's left and up: the blue axis ends there."""
    image = torch.full((3, 96, 96), 0.5)
    drawn = POSE.draw(image, to_matrix(degrees(60, 30, 0))[0].float())
    assert (drawn.shape, drawn.dtype) == (image.shape, image.dtype)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    blue = (drawn[2] - drawn[0] > 0.4).nonzero().float()
    assert blue.mean(0)[0] < 46  # up
    assert blue.mean(0)[1] < 40  # left
    assert torch.equal(image, torch.full((3, 96, 96), 0.5))
