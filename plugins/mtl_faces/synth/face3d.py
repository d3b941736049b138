"""The head in three dimensions: ellipsoids that melt into one skin, seen by parallel rays.

Head and view axes: x to the image's right, y down, z TOWARD the viewer; a frontal face has both the same. In these axes
R = Rx(pitch) Ry(-yaw) Rz(roll), as 300W-LP and AFLW2000 mean it: yaw > 0 turns the face to the image's left, pitch > 0 up,
roll > 0 clockwise as seen. Parallel rays (weak perspective) make a turned head the turned points, exactly.

A ray meets an ellipsoid in closed form. Where several are met the depths join by a soft maximum, so that colour is a smooth
function of the parameters, and rounding differences between machines stay rounding differences.
Shapes: B faces, K ellipsoids, P rays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .parameters import Faces

SOFTNESS = 0.055  # of the joins, in head units


class Ellipsoids(NamedTuple):
    """centre, radius: (B, K, 3) in head axes."""

    centre: Tensor
    radius: Tensor


class Hits(NamedTuple):
    """Where rays meet ellipsoids, (B, K, P). depth: z in view axes. cover: how much of the pixel. say: 1, and near 0 at the outline."""

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


def skin_parts(faces: Faces) -> Ellipsoids:
    """The ellipsoids that the skin is made of, moved by identity and by what the face does."""
    s, a = faces.shape, faces.actions
    open_jaw = a.jaw.mean(1, keepdim=True) * 0.16
    smile, lift = a.corner_pull, a.cheek
    w = s.width
    rows = [
        (0 * w, -0.22, -0.17, 0.74 * w, 0.84, 0.90),  # skull
        (0 * w, 0.12, 0.10, 0.655 * w, 0.80, 0.62),  # middle of the face
        (0 * w, 0.52 + open_jaw * 0.7, 0.14, 0.53 * w * s.jaw_width, 0.50 * s.chin + open_jaw * 0.4, 0.54),  # jaw
        (0 * w, 0.87 * s.chin + open_jaw, 0.36, 0.27 * s.jaw_width, 0.19, 0.235),  # chin
        (0 * w, -0.17, 0.54, 0.46 * w, 0.13, 0.19),  # ridge of the brows
        (0 * w, 0.11, 0.70, 0.09 * s.nose_width, 0.33, 0.15 * s.nose_depth),  # bridge of the nose
        (0 * w, s.nose_length - 0.05, 0.80, 0.115 * s.nose_width, 0.105, 0.19 * s.nose_depth),  # its tip
        (0 * w, s.mouth_y, 0.49, 0.30, 0.21, 0.155),  # lips
    ]  # fmt: skip
    for side, sign in ((0, -1.0), (1, 1.0)):
        puff = smile[:, side, None] * 0.045
        rise = 0.05 * lift[:, side, None] + 0.03 * smile[:, side, None]
        rows.append((sign * 0.31 * w, 0.30 - rise, 0.30, 0.30 * s.cheek, 0.27, 0.27 + puff))
        rows.append((sign * 0.105 * s.nose_width, s.nose_length - 0.015, 0.70, 0.075, 0.075, 0.10 + 0 * w))  # wing of the nose
        rows.append((sign * 0.75 * w, 0.08, -0.10, 0.085 * s.ear, 0.215 * s.ear, 0.15 + 0 * w))  # ear
    return stacked(rows)


def hair_parts(faces: Faces) -> Ellipsoids:
    """Two shells: the cap, and what hangs behind the head (flat where the hair is short)."""
    s = faces.shape
    grow, hang = 0.07 * s.hair_volume, s.hair_length
    cap = (0 * grow, -0.23 - 0.4 * grow, -0.18, 0.755 * s.width + 0.6 * grow, 0.86 + grow, 0.905 + 0.4 * grow)
    back = (0 * grow, 0.05 + 0.42 * hang, -0.35, (0.70 + 0.22 * hang) * s.width, 0.72 + 0.60 * hang, 0.50 + 0.06 * hang)
    return stacked([cap, back])


def stacked(rows: list[tuple[Tensor | float, ...]]) -> Ellipsoids:
    """K rows of cx, cy, cz, rx, ry, rz, numbers or (B, 1) -> ellipsoids."""
    like = next(v for v in rows[0] if isinstance(v, Tensor))
    flat = [v.expand_as(like) if isinstance(v, Tensor) else torch.full_like(like, v) for row in rows for v in row]
    all_of_it = torch.cat(flat, 1).unflatten(1, (len(rows), 2, 3))
    return Ellipsoids(all_of_it[:, :, 0], all_of_it[:, :, 1])


# ------------------------------------------------------------------------------------------------ rays


def basis(rays: Tensor) -> Tensor:
    """(B, 2, P) -> (B, 6, P): the monomials 1, x, y, x^2, y^2, xy of which every ellipsoid's outline and depth are made."""
    x, y = rays.unbind(1)
    return torch.stack([torch.ones_like(x), x, y, x.square(), y.square(), x * y], 1)


def hits(parts: Ellipsoids, turn: Tensor, monomials: Tensor, sharpness: Tensor) -> Hits:
    """Where parallel rays meet the ellipsoids of turned heads, nearest to the viewer.

    In an ellipsoid's unit sphere a ray is o + z d, with o = M (x, y, 1). It passes the centre at z = -b, b = o.d / d.d, and is
    inside while (z + b)^2 d.d < q, where q = d.d b^2 - |o|^2 + 1 is a quadratic form of (x, y, 1): two small matrix products.
    turn: (B, 3, 3) head -> view. monomials: (B, 6, P). sharpness: (B, 1) pixels in a head unit.
    """
    scaled = turn.mT[:, None] / parts.radius[..., None]  # (B, K, 3, 3): view -> unit sphere
    along = scaled[..., 2:]
    m = torch.cat([scaled[..., :2], -(parts.centre / parts.radius)[..., None]], 3)
    length = along.square().sum(2)  # (B, K, 1)
    pass_at = (m.mT @ along)[..., 0] / length  # (B, K, 3)
    form = pass_at[..., :, None] * pass_at[..., None, :] * length[..., None] - m.mT @ m
    (xx, xy, x1), (_, yy, y1), (_, _, one) = (row.unbind(-1) for row in form.unbind(-2))
    quadratic = torch.stack([one + 1, 2 * x1, 2 * y1, xx, yy, 2 * xy], -1)
    inside = quadratic @ monomials  # q: 1 in the middle, 0 at the outline
    depth = (inside.clamp_min(0) / length + 1e-6).sqrt() - pass_at[..., [2, 0, 1]] @ monomials[:, :3]
    size = parts.radius.amin(-1, keepdim=True)
    cover = (inside * (0.5 * size * sharpness[:, None]) + 0.5).clamp(0, 1)
    return Hits(depth, cover, cover * (2.5 * inside).clamp(0.02, 1))


def joined(met: Hits, parts: Ellipsoids, turn: Tensor, rays: Tensor) -> Surface:
    """The soft maximum of the depths, and the blend of the normals (point - centre) / radius^2 that goes with it."""
    top = (met.depth - 10 * (met.cover == 0)).amax(1, keepdim=True)
    weight = met.say * ((met.depth - top) / SOFTNESS).clamp(-20, 20).exp()
    total = weight.sum(1, keepdim=True).clamp_min(1e-9)
    depth = (top + SOFTNESS * total.log())[:, 0].clamp(-2, 2)
    curved = parts.radius.square().reciprocal().mT  # (B, 3, K)
    flat = turn.mT[..., :2] @ rays
    normal = (curved @ weight) * flat + (curved @ (weight * met.depth)) * turn.mT[..., 2:] - (curved * parts.centre.mT) @ weight
    point = flat + turn.mT[..., 2:] * depth[:, None]
    return Surface(1 - (1 - met.cover).prod(1), depth, point, unit(normal))


def unit(vectors: Tensor) -> Tensor:
    """(B, 3, P) -> length 1."""
    return vectors * (vectors.square().sum(1, keepdim=True) + 1e-12).rsqrt()


# ------------------------------------------------------------------------------------------------ named points

LANDMARKS = (
    "left_eye", "right_eye", "left_eye_outer", "right_eye_outer", "left_brow", "right_brow", "nose_bridge", "nose_tip",
    "left_mouth_corner", "right_mouth_corner", "mouth", "chin", "left_ear", "right_ear", "crown", "head_centre",
)  # fmt: skip
"""Named points of a head; left and right are those of the image of a frontal face. "head_centre" is what the head turns about."""


def points(faces: Faces) -> Tensor:
    """(B, L, 3): the landmarks in head axes, on the skin but for the ears, the crown and the centre."""
    s, a = faces.shape, faces.actions
    jaw = a.jaw.mean(1, keepdim=True) * 0.16
    corner = mouth_width(faces)
    flat = [
        (-s.eye_x, s.eye_y), (s.eye_x, s.eye_y), (-s.eye_x - s.eye_width, s.eye_y), (s.eye_x + s.eye_width, s.eye_y),
        (-s.eye_x, s.brow_y), (s.eye_x, s.brow_y), (0 * s.eye_x, s.eye_y), (0 * s.eye_x, s.nose_length - 0.05),
        (-corner, s.mouth_y), (corner, s.mouth_y), (0 * s.eye_x, s.mouth_y), (0 * s.eye_x, 0.87 * s.chin + jaw),
    ]  # fmt: skip
    xy = torch.stack([torch.cat(p, 1) for p in flat], 2)  # (B, 2, 12)
    parts = skin_parts(faces)
    still = torch.eye(3, device=xy.device).expand(len(xy), 3, 3)
    surface = joined(hits(parts, still, basis(xy), torch.full_like(s.width, 1e3)), parts, still, xy)
    ears = torch.stack([parts.centre[:, 10], parts.centre[:, 13]], 1)
    crown = (parts.centre[:, 0] - parts.radius[:, 0] * parts.radius.new_tensor([0, 1, 0]))[:, None]
    return torch.cat([surface.point.mT, ears, crown, torch.zeros_like(crown)], 1)


def mouth_width(faces: Faces) -> Tensor:
    """Half the width of the mouth, (B, 1)."""
    s, a = faces.shape, faces.actions
    mean = {name: getattr(a, name).mean(1, keepdim=True) for name in ("corner_pull", "stretch", "jaw", "press")}
    grow = 0.34 * mean["corner_pull"] + 0.30 * mean["stretch"] - 0.22 * mean["jaw"] + 0.04 * mean["press"]
    return s.mouth_width * (1 + grow).clamp_min(0.6)


def to_pixels(faces: Faces, size: int, pose_deg: Tensor | None = None) -> Tensor:
    """(B, L, 2): where the landmarks lie in the picture; x right, y down, (0, 0) the outer corner of the first pixel."""
    turn = rotation(faces.pose_deg if pose_deg is None else pose_deg)
    flat = (points(faces) @ turn.mT)[..., :2]
    return size * (faces.shot.centre[:, None] + faces.shot.scale[:, None] * flat)
