"""The head in three dimensions: ellipsoids that melt into one skin, seen by parallel rays.

Head and view axes: x to the image's right, y down, z TOWARD the viewer; for a frontal face both are the same. In these
axes R = Rx(pitch) Ry(-yaw) Rz(roll), as 300W-LP and AFLW2000 mean it: yaw > 0 turns the face to the image's left, pitch
> 0 up, roll > 0 clockwise as seen. Parallel rays (weak perspective): the turned head IS the turned points.

A ray meets an ellipsoid in closed form. Where it meets several, their depths join by a soft maximum: so color is a
smooth function of the parameters, and rounding differences between machines stay rounding differences.
Shapes: B faces, K ellipsoids, P rays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .parameters import Faces

SOFTNESS = 0.055  # of the joins, in head units
_JAW = 0.16  # how far the chin drops when the mouth is wide open


class Frame(NamedTuple):
    """B faces before the camera, and the rays sent at them.

    rays: (B, 2, P) x, y in view axes. turn: (B, 3, 3) head -> view. sharpness: (B, 1) pixels in a head unit.
    """

    faces: Faces
    rays: Tensor
    turn: Tensor
    sharpness: Tensor

    def points(self, depth: Tensor) -> Tensor:
        """Depths along the rays (B, P) -> points in head axes (B, 3, P)."""
        return self.turn.mT @ torch.cat([self.rays, depth[:, None]], 1)

    def to_head(self, vectors: Tensor) -> Tensor:
        """Directions in view axes (B, 3) -> in head axes (B, 3)."""
        return (self.turn.mT @ vectors[..., None])[..., 0]


class Ellipsoids(NamedTuple):
    """center, radius: (B, K, 3) in head axes."""

    center: Tensor
    radius: Tensor


class Hits(NamedTuple):
    """Where rays meet ellipsoids, (B, K, P).

    depth: z in view axes. cover: how much of the pixel. say: the weight in a join, the cover faded toward the outline.
    """

    depth: Tensor
    cover: Tensor
    say: Tensor


class Surface(NamedTuple):
    """The joined skin. cover, depth: (B, P); point, normal: (B, 3, P) in head axes."""

    cover: Tensor
    depth: Tensor
    point: Tensor
    normal: Tensor


def rotation(pose_deg: Tensor) -> Tensor:
    """(B, 3) yaw, pitch, roll in degrees -> (B, 3, 3), head -> view axes: Rx(pitch) Ry(-yaw) Rz(roll)."""
    yaw, pitch, roll = (pose_deg * (math.pi / 180)).unbind(1)
    return _about(0, pitch) @ _about(1, -yaw) @ _about(2, roll)


def _about(axis: int, angle: Tensor) -> Tensor:
    one, two = (axis + 1) % 3, (axis + 2) % 3
    m = torch.zeros(len(angle), 3, 3, dtype=angle.dtype, device=angle.device)
    m[:, axis, axis] = 1
    m[:, one, one] = m[:, two, two] = angle.cos()
    m[:, two, one] = angle.sin()
    m[:, one, two] = -angle.sin()
    return m


# ------------------------------------------------------------------------------------------------ the parts of a head

_Number = Tensor | float


def skin_parts(faces: Faces) -> Ellipsoids:
    """The ellipsoids that the skin is made of, moved by identity and by what the face does. The last two are the
    ears.
    """
    s, a = faces.shape, faces.actions
    w, drop = s.width, _JAW * a.jaw.mean(1, keepdim=True)
    rows: list[tuple[_Number, ...]] = [
        (0, -0.22, -0.17, 0.74 * w, 0.84, 0.90),  # skull
        (0, 0.12, 0.10, 0.655 * w, 0.80, 0.62),  # middle of the face
        (
            0,
            0.52 + 0.7 * drop,
            0.14,
            0.53 * w * s.jaw_width,
            0.50 * s.chin + 0.4 * drop,
            0.54,
        ),  # jaw
        (0, 0.87 * s.chin + drop, 0.36, 0.27 * s.jaw_width, 0.19, 0.235),  # chin
        (0, -0.17, 0.54, 0.46 * w, 0.13, 0.19),  # ridge of the brows
        (0, 0.11, 0.70, 0.09 * s.nose_width, 0.33, 0.15 * s.nose_depth),  # bridge of the nose
        (
            0,
            s.nose_length - 0.05,
            0.80,
            0.115 * s.nose_width,
            0.105,
            0.19 * s.nose_depth,
        ),  # its tip
        (0, s.mouth_y, 0.49, 0.30, 0.21, 0.155),  # lips
    ]
    for side, sign in ((0, -1.0), (1, 1.0)):
        smile, lift = a.corner_pull[:, side, None], a.cheek[:, side, None]
        up, out = 0.30 - 0.05 * lift - 0.03 * smile, 0.27 + 0.045 * smile
        rows.append((sign * 0.31 * w, up, 0.30, 0.30 * s.cheek, 0.27, out))
        rows.append(
            (sign * 0.105 * s.nose_width, s.nose_length - 0.015, 0.70, 0.075, 0.075, 0.10)
        )  # wing of the nose
    rows.extend(
        (sign * 0.75 * w, 0.08, -0.10, 0.085 * s.ear, 0.215 * s.ear, 0.15) for sign in (-1.0, 1.0)
    )
    return stacked(rows)


def stacked(rows: list[tuple[_Number, ...]]) -> Ellipsoids:
    """K rows of center x, y, z and radius x, y, z, numbers or (B, 1) -> ellipsoids."""
    like = next(v for row in rows for v in row if isinstance(v, Tensor))
    flat = [v if isinstance(v, Tensor) else torch.full_like(like, v) for row in rows for v in row]
    both = torch.cat(flat, 1).unflatten(1, (len(rows), 2, 3))
    return Ellipsoids(both[:, :, 0], both[:, :, 1])


# ------------------------------------------------------------------------------------------------ rays


def hits(parts: Ellipsoids, frame: Frame) -> Hits:
    """Where the rays meet the ellipsoids of the turned heads, nearest to the viewer.

    In an ellipsoid's unit sphere a ray is o + z d, with o = M (x, y, 1). It is nearest to the center at z = -p, p = o.d
    / d.d, and inside while (z + p)^2 d.d < q, where q = d.d p^2 - |o|^2 + 1 is a quadratic form of (x, y, 1): two small
    matrix products.
    """
    scaled = frame.turn.mT[:, None] / parts.radius[..., None]  # (B, K, 3, 3): view -> unit sphere
    along = scaled[..., 2:]
    m = torch.cat([scaled[..., :2], -(parts.center / parts.radius)[..., None]], 3)
    length = along.square().sum(2)  # (B, K, 1)
    nearest = (m.mT @ along)[..., 0] / length  # (B, K, 3)
    form = nearest[..., :, None] * nearest[..., None, :] * length[..., None] - m.mT @ m
    (xx, xy, x1), (_, yy, y1), (_, _, one) = (row.unbind(-1) for row in form.unbind(-2))
    x, y = frame.rays.unbind(1)
    flat = torch.stack([x, y, torch.ones_like(x)], 1)
    curved = torch.cat([flat, torch.stack([x * x, y * y, x * y], 1)], 1)
    inside = (
        torch.stack([2 * x1, 2 * y1, one + 1, xx, yy, 2 * xy], -1) @ curved
    )  # q: 1 in the middle, 0 at the outline
    depth = (inside.clamp_min(0) / length + 1e-6).sqrt() - nearest @ flat
    size = parts.radius.amin(-1, keepdim=True)
    cover = (inside * (0.5 * size * frame.sharpness[:, None]) + 0.5).clamp(0, 1)
    return Hits(depth, cover, cover * (2.5 * inside).clamp(0.02, 1))


def joined(parts: Ellipsoids, frame: Frame) -> Surface:
    """The skin: the soft maximum of the depths, and the blend of the normals (point - center) / radius^2 that goes
    with it.
    """
    met, back = hits(parts, frame), frame.turn.mT
    top = (met.depth - 10 * (met.cover == 0)).amax(1, keepdim=True)
    weight = met.say * ((met.depth - top) / SOFTNESS).clamp(-20, 20).exp()
    total = weight.sum(1, keepdim=True).clamp_min(1e-9)
    depth = (top + SOFTNESS * total.log())[:, 0].clamp(-2, 2)
    bend = parts.radius.square().reciprocal().mT  # (B, 3, K)
    flat = back[..., :2] @ frame.rays
    normal = (
        (bend @ weight) * flat
        + (bend @ (weight * met.depth)) * back[..., 2:]
        - (bend * parts.center.mT) @ weight
    )
    return Surface(
        1 - (1 - met.cover).prod(1), depth, flat + back[..., 2:] * depth[:, None], unit(normal)
    )


def unit(vectors: Tensor) -> Tensor:
    """(B, 3, P) -> length 1."""
    return vectors * (vectors.square().sum(1, keepdim=True) + 1e-12).rsqrt()


# ------------------------------------------------------------------------------------------------ named points

_ON_SKIN = (
    "left_eye", "right_eye", "left_eye_outer", "right_eye_outer", "left_brow", "right_brow", "nose_bridge", "nose_tip",
    "left_mouth_corner", "right_mouth_corner", "mouth", "chin",
)  # fmt: skip
LANDMARKS = (*_ON_SKIN, "left_ear", "right_ear", "crown", "head_center")
"""Named points of a head; left and right are those of the image of a frontal face. "head_center" is what the head
turns about.
"""


def points(faces: Faces) -> Tensor:
    """(B, L, 3): the landmarks in head axes, where the face is at rest but for its open jaw and its drawn mouth."""
    s, zero = faces.shape, torch.zeros_like(faces.shape.width)
    corner, jaw = mouth_width(faces), _JAW * faces.actions.jaw.mean(1, keepdim=True)
    flat = [
        (-s.eye_x, s.eye_y), (s.eye_x, s.eye_y), (-s.eye_x - s.eye_width, s.eye_y), (s.eye_x + s.eye_width, s.eye_y),
        (-s.eye_x, s.brow_y), (s.eye_x, s.brow_y), (zero, s.eye_y), (zero, s.nose_length - 0.05),
        (-corner, s.mouth_y), (corner, s.mouth_y), (zero, s.mouth_y), (zero, 0.87 * s.chin + jaw),
    ]  # fmt: skip
    rays = torch.stack([torch.cat(p, 1) for p in flat], 2)  # (B, 2, 12)
    parts = skin_parts(faces)
    frontal = Frame(
        faces, rays, torch.eye(3, device=rays.device).expand(len(rays), 3, 3), zero + 1e3
    )
    skull = torch.cat(
        [zero, parts.center[:, 0, 1:2] - parts.radius[:, 0, 1:2], parts.center[:, 0, 2:]], 1
    )
    rest = torch.stack([skull, torch.zeros_like(skull)], 1)
    return torch.cat([joined(parts, frontal).point.mT, parts.center[:, -2:], rest], 1)


def mouth_width(faces: Faces) -> Tensor:
    """Half the width of the mouth, (B, 1)."""
    a = faces.actions
    grow = 0.34 * a.corner_pull + 0.30 * a.stretch - 0.22 * a.jaw + 0.04 * a.press
    return faces.shape.mouth_width * (1 + grow.mean(1, keepdim=True)).clamp_min(0.6)


def to_pixels(faces: Faces, size: int, pose_deg: Tensor | None = None) -> Tensor:
    """(B, L, 2): the landmarks in the image; x right, y down, (0, 0) the outer corner of the first pixel."""
    turn = rotation(faces.pose_deg if pose_deg is None else pose_deg)
    flat = (points(faces) @ turn.mT)[..., :2]
    return size * (faces.shot.center[:, None] + faces.shot.scale[:, None] * flat)
