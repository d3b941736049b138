"""Rotations of a head: angles, matrices, six numbers, the angle between two, and how they follow an image's pixels.

Convention of 300W-LP and AFLW2000 labels (fits the landmarks of AFLW2000 to 2 degrees; the Rz Ry Rx of many repositories does
not). x to the image's right, y down, z toward the viewer. yaw > 0 turns the face to the image's left, pitch > 0 up, roll > 0
clockwise as seen:

    R = Rx(pitch) Ry(-yaw) Rz(roll)         head -> view axes

Angles are (..., 3) in the order yaw, pitch, roll; matrices (..., 3, 3). Products are sums of elementwise ones, so that neither
autocast nor TF32 rounds them.
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
    (sy, cy), (sp, cp), (sr, cr) = ((a.sin(), a.cos()) for a in (-yaw, pitch, roll))
    samples = [
        cy * cr, -cy * sr, sy,
        sp * sy * cr + cp * sr, cp * cr - sp * sy * sr, -sp * cy,
        sp * sr - cp * sy * cr, cp * sy * sr + sp * cr, cp * cy,
    ]  # fmt: skip
    return torch.stack(samples, -1).unflatten(-1, (3, 3))


def to_pose_deg(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3) yaw, pitch, roll in degrees.

    Every rotation has two readings, (yaw, pitch, roll) and (180 - yaw, 180 + pitch, 180 + roll): this is the one whose three
    angles are smaller in sum, which gives back every label whose angles come to less than 270 degrees, a yaw of 95 too.
    """
    yaw = -torch.atan2(matrix[..., 0, 2], torch.hypot(matrix[..., 0, 0], matrix[..., 0, 1]))
    pitch = torch.atan2(-matrix[..., 1, 2], matrix[..., 2, 2])
    roll = torch.atan2(-matrix[..., 0, 1], matrix[..., 0, 0])
    one = torch.stack([yaw, pitch, roll], -1) * (180 / math.pi)
    other = wrapped_deg(torch.stack([180 - one[..., 0], 180 + one[..., 1], 180 + one[..., 2]], -1))
    smaller = one.abs().sum(-1, keepdim=True) <= other.abs().sum(-1, keepdim=True)
    return torch.where(smaller, one, other)


def wrapped_deg(angle_deg: Tensor) -> Tensor:
    """-> the same angles in [-180, 180)."""
    return torch.remainder(angle_deg + 180, 360) - 180


def from_6d(six: Tensor) -> Tensor:
    """(..., 6) -> (..., 3, 3): the first two COLUMNS, made orthonormal by Gram-Schmidt (Zhou et al., "On the Continuity of
    Rotation Representations in Neural Networks", CVPR 2019). In fp32.
    """
    first, second = six.float().unflatten(-1, (2, 3)).unbind(-2)
    x = F.normalize(first, dim=-1, eps=1e-6)  # bounds the gradient of a degenerate answer
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1, eps=1e-6)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def to_6d(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 6): the first two columns."""
    return matrix[..., :2].mT.flatten(-2)


def geodesic_rad(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3, 3) twice -> (...): the angle of the turn from one to the other, in [0, pi], in fp32.

    By atan2: acos of the trace has no gradient at small angles in fp32, and NaN ones in bf16. Its gradient is finite everywhere.
    """
    turn = product(a.float(), b.float().mT)
    vee = torch.stack([turn[..., i, j] - turn[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))], -1)
    trace = turn.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2((vee.square().sum(-1) + 1e-12).sqrt(), trace - 1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3, 3) twice -> their matrix product."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def mirror(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> the head in the mirror image, M R M with M = diag(-1, 1, 1): yaw and roll change their sign."""
    sign = matrix.new_ones(3, 3)
    sign[0, 1:] = sign[1:, 0] = -1
    return matrix * sign


def moved(matrix: Tensor, geometry: Geometry) -> Tensor:
    """(B, 3, 3) -> the heads as the moved images show them.

    A turn Q of the image gives Q R: away from the frontal view that changes all three angles. A mirror gives M R M, since
    the head's own left and right change places too. Scale and place change nothing.
    """
    flat, mirrors = orthogonal(geometry.matrix)  # (B, 2, 2): Q, or Q M
    turn = F.pad(flat.to(matrix.dtype), (0, 1, 0, 1)) + F.pad(matrix.new_ones(1, 1), (2, 0, 2, 0))
    own = matrix.new_ones(len(matrix), 1, 3)
    own[:, 0, 0] = 1 - 2 * mirrors.to(matrix.dtype)
    return product(turn, matrix) * own


def chordal_mean(a: Tensor, b: Tensor) -> Tensor:
    """(..., 3, 3) twice -> the rotation nearest to both, by squared distance of the entries."""
    u, _, vt = torch.linalg.svd(a + b)
    last = torch.linalg.det(product(u, vt)).sign()
    scale = torch.stack([torch.ones_like(last), torch.ones_like(last), last], -1)
    return product(u * scale[..., None, :], vt)
