"""The head in three dimensions: ellipsoids joined into one skin, seen by parallel rays.

Head and view axes: x to the image's right, y down, z TOWARD the viewer; they agree for a frontal
face. R = Rx(pitch) Ry(-yaw) Rz(roll), the convention of 300W-LP and AFLW2000: yaw > 0 turns the
face to the image's left, pitch > 0 up, roll > 0 clockwise as seen. Rays are parallel (weak
perspective), so the image of a rotated head is that of its rotated points.

The intersection of a ray and an ellipsoid has a closed form. Several depths join by a soft maximum.
So color is a smooth function of the parameters, and rounding differences between machines stay
small.

Shapes: B faces, K ellipsoids, P rays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .parameters import Faces

SOFTNESS = 0.055  # of the joins, in head units
_JAW = 0.16  # drop of the chin with an open mouth, in head units


class Frame(NamedTuple):
    """B faces before the camera, and the rays sent at them.

    rays: (B, 2, P), x and y in view axes.
    turn: (B, 3, 3), head -> view.
    sharpness: (B, 1), pixels in a head unit.
    """

    faces: Faces
    rays: Tensor
    turn: Tensor
    sharpness: Tensor

    def points(self, depth: Tensor) -> Tensor:
        """Return the points (B, 3, P), in head axes, at these depths (B, P) along the rays."""
        return self.turn.mT @ torch.cat([self.rays, depth[:, None]], 1)

    def to_head(self, vectors: Tensor) -> Tensor:
        """Convert directions (B, 3) from view axes to head axes."""
        return (self.turn.mT @ vectors[..., None])[..., 0]


class Ellipsoids(NamedTuple):
    """center, radius: (B, K, 3) in head axes."""

    center: Tensor
    radius: Tensor


class Hits(NamedTuple):
    """Where rays meet ellipsoids, (B, K, P).

    depth: z in view axes.
    cover: covered share of the pixel.
    weight: in a join, the cover faded toward the outline.
    """

    depth: Tensor
    cover: Tensor
    weight: Tensor


class Surface(NamedTuple):
    """The joined skin. cover, depth: (B, P); point, normal: (B, 3, P) in head axes."""

    cover: Tensor
    depth: Tensor
    point: Tensor
    normal: Tensor


def rotation(pose_deg: Tensor) -> Tensor:
    """(B, 3) yaw, pitch, roll in degrees -> (B, 3, 3), head -> view axes."""
    yaw, pitch, roll = (pose_deg * (math.pi / 180)).unbind(1)
    return _about(0, pitch) @ _about(1, -yaw) @ _about(2, roll)


def _about(axis: int, angle: Tensor) -> Tensor:
    """(B,) radians -> rotations about one axis, (B, 3, 3)."""
    one, two = (axis + 1) % 3, (axis + 2) % 3
    m = torch.zeros(len(angle), 3, 3, dtype=angle.dtype, device=angle.device)
    m[:, axis, axis] = 1
    m[:, one, one] = m[:, two, two] = angle.cos()
    m[:, two, one] = angle.sin()
    m[:, one, two] = -angle.sin()
    return m


# ----------------------------------------------------------------------------- the parts of a head

_Number = Tensor | float


def skin_parts(faces: Faces) -> Ellipsoids:
    """Return the ellipsoids of the skin, moved by identity and actions; the last two are ears."""
    s, a = faces.shape, faces.actions
    w = s.width
    drop = _JAW * a.jaw.mean(1, keepdim=True)
    chin = 0.50 * s.chin + 0.4 * drop
    rows: list[tuple[_Number, ...]] = [
        (0, -0.22, -0.17, 0.74 * w, 0.84, 0.90),  # skull
        (0, 0.12, 0.10, 0.655 * w, 0.80, 0.62),  # middle of the face
        (0, 0.52 + 0.7 * drop, 0.14, 0.53 * w * s.jaw_width, chin, 0.54),  # jaw
        (0, 0.87 * s.chin + drop, 0.36, 0.27 * s.jaw_width, 0.19, 0.235),  # chin
        (0, -0.17, 0.54, 0.46 * w, 0.13, 0.19),  # ridge of the brows
        (0, 0.11, 0.70, 0.09 * s.nose_width, 0.33, 0.15 * s.nose_depth),  # bridge of the nose
        # tip of the nose
        (0, s.nose_length - 0.05, 0.80, 0.115 * s.nose_width, 0.105, 0.19 * s.nose_depth),
        (0, s.mouth_y, 0.49, 0.30, 0.21, 0.155),  # lips
    ]
    for side, sign in ((0, -1.0), (1, 1.0)):
        smile = a.corner_pull[:, side, None]
        lift = a.cheek[:, side, None]
        up = 0.30 - 0.05 * lift - 0.03 * smile
        out = 0.27 + 0.045 * smile
        rows.append((sign * 0.31 * w, up, 0.30, 0.30 * s.cheek, 0.27, out))  # cheek
        wing_x, wing_y = sign * 0.105 * s.nose_width, s.nose_length - 0.015
        rows.append((wing_x, wing_y, 0.70, 0.075, 0.075, 0.10))  # wing of the nose
    for sign in (-1.0, 1.0):
        rows.append((sign * 0.75 * w, 0.08, -0.10, 0.085 * s.ear, 0.215 * s.ear, 0.15))
    return stacked(rows)


def stacked(rows: list[tuple[_Number, ...]]) -> Ellipsoids:
    """Build K ellipsoids from rows of center x, y, z and radius x, y, z: numbers or (B, 1)."""
    values = [value for row in rows for value in row]
    like = next(value for value in values if isinstance(value, Tensor))
    filled = [v if isinstance(v, Tensor) else torch.full_like(like, v) for v in values]
    both = torch.cat(filled, 1).unflatten(1, (len(rows), 2, 3))
    return Ellipsoids(both[:, :, 0], both[:, :, 1])


# -------------------------------------------------------------------------------------------- rays


def hits(parts: Ellipsoids, frame: Frame) -> Hits:
    """Intersect the rays with the ellipsoids of the rotated heads, on the viewer's side.

    In the coordinates where an ellipsoid is the unit sphere, a ray is o + z d with o = M (x, y, 1).
    It is nearest to the center at z = -p with p = o.d / d.d. It is inside while (z + p)^2 d.d < q,
    where q = d.d p^2 - |o|^2 + 1 is a quadratic form of (x, y, 1). So all intersections are two
    small matrix products.
    """
    scaled = frame.turn.mT[:, None] / parts.radius[..., None]  # (B, K, 3, 3): view -> unit sphere
    along = scaled[..., 2:]
    offset = -(parts.center / parts.radius)[..., None]
    m = torch.cat([scaled[..., :2], offset], 3)
    length = along.square().sum(2)  # (B, K, 1)
    nearest = (m.mT @ along)[..., 0] / length  # (B, K, 3)
    form = nearest[..., :, None] * nearest[..., None, :] * length[..., None] - m.mT @ m
    # Its entries for x, y and 1; it is symmetric.
    first, second, third = form.unbind(-2)
    xx, xy, x1 = first.unbind(-1)
    _, yy, y1 = second.unbind(-1)
    one = third[..., 2]
    x, y = frame.rays.unbind(1)
    flat = torch.stack([x, y, torch.ones_like(x)], 1)
    products = torch.stack([x * x, y * y, x * y], 1)
    curved = torch.cat([flat, products], 1)
    # q: 1 at the center, 0 at the outline.
    weights = torch.stack([2 * x1, 2 * y1, one + 1, xx, yy, 2 * xy], -1)
    inside = weights @ curved
    depth = (inside.clamp_min(0) / length + 1e-6).sqrt() - nearest @ flat
    size = parts.radius.amin(-1, keepdim=True)
    cover = (inside * (0.5 * size * frame.sharpness[:, None]) + 0.5).clamp(0, 1)
    return Hits(depth, cover, cover * (2.5 * inside).clamp(0.02, 1))


def joined(parts: Ellipsoids, frame: Frame) -> Surface:
    """Join the ellipsoids into one skin.

    The depth is the soft maximum of their depths. The normal is the blend of their normals
    (point - center) / radius^2, with the same weights.
    """
    met = hits(parts, frame)
    back = frame.turn.mT
    # Ellipsoids that the ray misses must not determine the maximum.
    top = (met.depth - 10 * (met.cover == 0)).amax(1, keepdim=True)
    weight = met.weight * ((met.depth - top) / SOFTNESS).clamp(-20, 20).exp()
    total = weight.sum(1, keepdim=True).clamp_min(1e-9)
    depth = (top + SOFTNESS * total.log())[:, 0].clamp(-2, 2)
    bend = parts.radius.square().reciprocal().mT  # (B, 3, K)
    flat = back[..., :2] @ frame.rays
    normal = (
        (bend @ weight) * flat
        + (bend @ (weight * met.depth)) * back[..., 2:]
        - (bend * parts.center.mT) @ weight
    )
    cover = 1 - (1 - met.cover).prod(1)
    point = flat + back[..., 2:] * depth[:, None]
    return Surface(cover, depth, point, unit(normal))


def unit(vectors: Tensor) -> Tensor:
    """Scale vectors (B, 3, P) to length 1."""
    return vectors * (vectors.square().sum(1, keepdim=True) + 1e-12).rsqrt()


# ------------------------------------------------------------------------------------ named points

_ON_SKIN = (
    "left_eye", "right_eye", "left_eye_outer", "right_eye_outer",
    "left_brow", "right_brow", "nose_bridge", "nose_tip",
    "left_mouth_corner", "right_mouth_corner", "mouth", "chin",
)  # fmt: skip
LANDMARKS = (*_ON_SKIN, "left_ear", "right_ear", "crown", "head_center")
"""Named points of a head; left and right are those of the image of a frontal face.

"head_center" is the center of rotation.
"""


def points(faces: Faces) -> Tensor:
    """Return the landmarks (B, L, 3) in head axes, for a face at rest.

    Two actions count: the open jaw and the width of the mouth.
    """
    s = faces.shape
    zero = torch.zeros_like(s.width)
    corner = mouth_width(faces)
    jaw = _JAW * faces.actions.jaw.mean(1, keepdim=True)
    outer = s.eye_x + s.eye_width
    flat = [
        (-s.eye_x, s.eye_y),
        (s.eye_x, s.eye_y),
        (-outer, s.eye_y),
        (outer, s.eye_y),
        (-s.eye_x, s.brow_y),
        (s.eye_x, s.brow_y),
        (zero, s.eye_y),
        (zero, s.nose_length - 0.05),
        (-corner, s.mouth_y),
        (corner, s.mouth_y),
        (zero, s.mouth_y),
        (zero, 0.87 * s.chin + jaw),
    ]
    rays = torch.stack([torch.cat(p, 1) for p in flat], 2)  # (B, 2, 12)
    parts = skin_parts(faces)
    # Rays from the front find the depth of each point on the skin.
    upright = torch.eye(3, device=rays.device).expand(len(rays), 3, 3)
    frontal = Frame(faces, rays, upright, zero + 1e3)
    on_skin = joined(parts, frontal).point.mT
    crown_y = parts.center[:, 0, 1:2] - parts.radius[:, 0, 1:2]
    crown = torch.cat([zero, crown_y, parts.center[:, 0, 2:]], 1)
    rest = torch.stack([crown, torch.zeros_like(crown)], 1)
    return torch.cat([on_skin, parts.center[:, -2:], rest], 1)


def mouth_width(faces: Faces) -> Tensor:
    """(B, 1): half the width of the mouth."""
    a = faces.actions
    grow = 0.34 * a.corner_pull + 0.30 * a.stretch - 0.22 * a.jaw + 0.04 * a.press
    return faces.shape.mouth_width * (1 + grow.mean(1, keepdim=True)).clamp_min(0.6)


def to_pixels(faces: Faces, size: int, pose_deg: Tensor | None = None) -> Tensor:
    """(B, L, 2): the landmarks in pixels, x right, y down.

    (0, 0) is the outer corner of the first pixel.
    """
    pose_deg = faces.pose_deg if pose_deg is None else pose_deg
    turn = rotation(pose_deg)
    flat = (points(faces) @ turn.mT)[..., :2]
    return size * (faces.shot.center[:, None] + faces.shot.scale[:, None] * flat)
