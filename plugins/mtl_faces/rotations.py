"""Rotations of a head: angles, matrices, six numbers, geodesic angle, and motion with the image.

Convention of the labels of 300W-LP and AFLW2000: x to the image's right, y down, z toward the
viewer. yaw > 0 turns the face to the image's left, pitch > 0 up, roll > 0 clockwise as seen:

    R = Rx(pitch) Ry(-yaw) Rz(roll)         head -> view axes

This fits the landmarks of AFLW2000 to 2 degrees. The Rz Ry Rx of many repositories does not.

Angles are (..., 3) in the order yaw, pitch, roll. Matrices are (..., 3, 3). Matrix products are
sums of elementwise products, so neither autocast nor TF32 rounds them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mtlcore import Geometry, orthogonal


def to_matrix(pose_deg: Tensor) -> Tensor:
    """(..., 3) yaw, pitch, roll in degrees -> (..., 3, 3)."""
    yaw, pitch, roll = (pose_deg * (math.pi / 180)).unbind(-1)
    yaw = -yaw
    sy, cy = yaw.sin(), yaw.cos()
    sp, cp = pitch.sin(), pitch.cos()
    sr, cr = roll.sin(), roll.cos()
    entries = [
        cy * cr, -cy * sr, sy,
        sp * sy * cr + cp * sr, cp * cr - sp * sy * sr, -sp * cy,
        sp * sr - cp * sy * cr, cp * sy * sr + sp * cr, cp * cy,
    ]  # fmt: skip
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def to_pose_deg(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3) yaw, pitch, roll in degrees.

    Two triples of angles give the same rotation: (yaw, pitch, roll) and (180 - yaw, 180 + pitch,
    180 + roll). This returns the one with the smaller sum of absolute angles. So every label whose
    absolute angles sum to less than 270 degrees is recovered, also with a yaw of 95.
    """
    cos_yaw = torch.hypot(matrix[..., 0, 0], matrix[..., 0, 1])
    yaw = -torch.atan2(matrix[..., 0, 2], cos_yaw)
    pitch = torch.atan2(-matrix[..., 1, 2], matrix[..., 2, 2])
    roll = torch.atan2(-matrix[..., 0, 1], matrix[..., 0, 0])
    first = torch.stack([yaw, pitch, roll], -1) * (180 / math.pi)
    yaw, pitch, roll = first.unbind(-1)
    second = wrapped_deg(torch.stack([180 - yaw, 180 + pitch, 180 + roll], -1))
    first_sum = first.abs().sum(-1, keepdim=True)
    second_sum = second.abs().sum(-1, keepdim=True)
    return torch.where(first_sum <= second_sum, first, second)


def wrapped_deg(angle_deg: Tensor) -> Tensor:
    """Wrap angles to [-180, 180)."""
    return torch.remainder(angle_deg + 180, 360) - 180


def from_6d(six: Tensor) -> Tensor:
    """(..., 6) -> (..., 3, 3) fp32: orthonormalize the first two COLUMNS by Gram-Schmidt.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks" (CVPR 2019).
    """
    first, second = six.float().unflatten(-1, (2, 3)).unbind(-2)
    # eps bounds the gradient where a column is near 0 or both are parallel.
    x = F.normalize(first, dim=-1, eps=1e-6)
    along_x = (x * second).sum(-1, keepdim=True)
    y = F.normalize(second - along_x * x, dim=-1, eps=1e-6)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def to_6d(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 6): the first two columns."""
    return matrix[..., :2].mT.flatten(-2)


def geodesic_rad(a: Tensor, b: Tensor) -> Tensor:
    """Two (..., 3, 3) -> (...): the angle of the rotation between them, in [0, pi], in fp32.

    By atan2, with a finite gradient everywhere. acos of the trace has no gradient at small angles
    in fp32, and a NaN gradient in bf16.
    """
    turn = product(a.float(), b.float().mT)
    # The antisymmetric part holds 2 sin(angle), the trace 1 + 2 cos(angle).
    entries = [
        turn[..., 2, 1] - turn[..., 1, 2],
        turn[..., 0, 2] - turn[..., 2, 0],
        turn[..., 1, 0] - turn[..., 0, 1],
    ]
    vee = torch.stack(entries, -1)
    trace = turn.diagonal(dim1=-2, dim2=-1).sum(-1)
    length = (vee.square().sum(-1) + 1e-12).sqrt()
    return torch.atan2(length, trace - 1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of two (..., 3, 3)."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def mirror(matrix: Tensor) -> Tensor:
    """The head (..., 3, 3) in the mirror image: M R M with M = diag(-1, 1, 1).

    Yaw and roll change sign.
    """
    sign = matrix.new_ones(3, 3)
    sign[0, 1:] = sign[1:, 0] = -1
    return matrix * sign


def moved(matrix: Tensor, geometry: Geometry) -> Tensor:
    """The heads (B, 3, 3) in the moved images.

    A rotation Q of the image gives Q R, which changes all three angles unless the face is frontal.
    A mirror gives M R M, since it also swaps the head's own left and right. Scale and translation
    change nothing.
    """
    flat, mirrors = orthogonal(geometry.matrix)  # (B, 2, 2): Q, or Q M if mirrored
    # Extend the plane rotation to three dimensions, with z unchanged.
    plane = F.pad(flat.to(matrix.dtype), (0, 1, 0, 1))
    turn = plane + F.pad(matrix.new_ones(1, 1), (2, 0, 2, 0))
    # The right factor M of a mirror: it negates the first column.
    own = matrix.new_ones(len(matrix), 1, 3)
    own[:, 0, 0] = 1 - 2 * mirrors.to(matrix.dtype)
    return product(turn, matrix) * own


def chordal_mean(a: Tensor, b: Tensor) -> Tensor:
    """Two (..., 3, 3) -> the rotation nearest to both, by squared distance of the entries."""
    u, _, vt = torch.linalg.svd(a + b)
    # The sign keeps the determinant at 1: without it a reflection might be nearer.
    last = torch.linalg.det(product(u, vt)).sign()
    one = torch.ones_like(last)
    scale = torch.stack([one, one, last], -1)
    return product(u * scale[..., None, :], vt)
