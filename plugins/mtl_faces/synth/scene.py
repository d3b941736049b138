"""All that is not the face: light, background, clothes, hair, what stands in the way, and the camera.

Shapes: B faces, P = size * size pixels; rays (B, 2, P) in view axes, head units.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import hashed
from .face3d import Ellipsoids, Hits, Surface, rotation, unit
from .paint import blob, over
from .parameters import Faces


def lit(albedo: Tensor, normal: Tensor, faces: Faces, gloss: float = 0.10) -> Tensor:
    """albedo (B, 3, P), normal (B, 3, P) in head axes -> the colour under the face's light."""
    turn, shot = rotation(faces.pose_deg), faces.shot
    toward = (turn.mT @ shot.light[..., None])[..., 0]  # (B, 3) in head axes
    half = shot.light + shot.light.new_tensor([0.0, 0.0, 1.0])
    half = (turn.mT @ (half / half.norm(dim=1, keepdim=True))[..., None])[..., 0]
    facing = torch.einsum("bip,bi->bp", normal, toward)
    shine = torch.einsum("bip,bi->bp", normal, half).clamp_min(0).square().square().square() * gloss
    diffuse = (facing * 0.8 + 0.2).clamp_min(0)
    light = shot.ambient + (1.08 - shot.ambient) * diffuse
    return albedo * light[:, None] * faces.colours.light[..., None] + (shine * (1 - shot.ambient))[:, None]


def background(rays: Tensor, faces: Faces) -> Tensor:
    """Two colours mixed by three slow waves, and a band across: (B, 3, P)."""
    x, y = rays.unbind(1)
    shot, mix = faces.shot, 0.0
    for one in range(3):
        fx, fy, phase = shot.waves[:, 3 * one : 3 * one + 3, None].unbind(1)
        mix = mix + torch.sin(2.6 * fx * x + 2.6 * fy * y + math.pi * phase)
    share = (0.5 + 0.3 * mix).clamp(0, 1)[:, None]
    picture = faces.colours.back_one[..., None] * (1 - share) + faces.colours.back_two[..., None] * share
    turn, offset, width, strength = shot.stripe[..., None].unbind(1)
    across = x * torch.cos(math.pi * turn) + y * torch.sin(math.pi * turn)
    band = (((0.1 + 0.4 * width) - (across - 3 * offset + 1.5).abs()) * 25).clamp(0, 1) * strength
    return over(picture, band, 1 - faces.colours.back_one * 0.8)


def body(picture: Tensor, rays: Tensor, faces: Faces, sharpness: Tensor) -> Tensor:
    """Shoulders, behind everything else of the person."""
    neck = neck_base(faces)
    dx, dy = rays[:, 0] - 0.6 * neck[:, :1], rays[:, 1] - neck[:, 1:] - 1.25
    inside = 1 - (dx / 1.45).square() - (dy / 0.85).square()
    shade = (1.0 - 0.35 * dx.abs() / 1.45).clamp(0.3, 1)[:, None] * (0.5 + 0.5 * faces.shot.ambient)[..., None]
    return over(picture, (inside * 0.5 * sharpness + 0.5).clamp(0, 1), faces.colours.clothes[..., None] * shade)


def neck_base(faces: Faces) -> Tensor:
    """(B, 2): where the neck meets the head, in view axes."""
    base = torch.tensor([0.0, 0.62, -0.22], device=faces.pose_deg.device)
    return (rotation(faces.pose_deg) @ base)[:, :2]


def neck(picture: Tensor, rays: Tensor, faces: Faces, sharpness: Tensor) -> Tensor:
    """A shaded column from the head down into the collar."""
    base = neck_base(faces)
    down = rays[:, 1] - base[:, 1:]
    middle = base[:, :1] * (1 - 0.4 * down.clamp(0, 1))
    half = 0.36 + 0.04 * (1 - faces.female) + 0.10 * (down - 0.35).clamp_min(0).square()
    across = (rays[:, 0] - middle) / half
    mask = ((1 - across.abs()) * half * sharpness + 0.5).clamp(0, 1) * ((1.0 - 0.25 * across.square() - down) * 8).clamp(0, 1)
    mask = mask * (down * 8 + 1).clamp(0, 1)
    facing = (across * faces.shot.light[:, :1] + (1 - across.square()).clamp_min(0).sqrt() * faces.shot.light[:, 2:]).clamp_min(0)
    light = (faces.shot.ambient + (1 - faces.shot.ambient) * facing) * (0.50 + 0.35 * (down - 0.2).clamp(0, 1))
    return over(picture, mask, faces.colours.skin[..., None] * light[:, None] * faces.colours.light[..., None])


# ------------------------------------------------------------------------------------------------ hair


def strands(point: Tensor, faces: Faces) -> Tensor:
    """Light and dark strands, a factor (B, P)."""
    x, y, z = point.unbind(1)
    swing, curl = faces.shape.parting, faces.shape.curl
    fine = torch.sin(31 * (x + swing) + 13 * z + 4 * torch.sin(3 * y + 5 * swing))
    curls = torch.sin(24 * x + 5 * torch.sin(17 * y)) * torch.sin(26 * y + 9 * z)
    return 0.90 + 0.08 * (1 - curl) * fine + 0.17 * curl * curls


def hair_mask(point: Tensor, faces: Faces, sharpness: Tensor) -> Tensor:
    """Where the cap of hair grows: above the hair line, and behind the temples down to the neck; (B, P)."""
    s = faces.shape
    x, y, z = point.unbind(1)
    jag = 0.018 * torch.sin(21 * x + 3 * s.parting) + 0.012 * torch.sin(47 * x)
    off = x - 0.6 * s.parting
    line = s.hair_line + s.fringe * (1 + 0.5 * s.parting * x) + jag + s.hair_round * off.square() - 0.05 * blob(off / 0.12, 0 * y)
    low = 0.16 + 0.5 * (-z - 0.1).clamp(0, 1) + 0.7 * s.hair_length
    sides = -0.02 - z + 0.18 * s.hair_length - 0.18 * (y + 0.3).clamp(-0.4, 0.4)
    crown = y + 0.30 + 4 * (s.hair_line + 0.85).clamp(0, 1)  # a bald head keeps its sides
    behind = torch.minimum(torch.minimum(sides, low - y), crown)
    return (torch.maximum(line - y, behind) * sharpness * 0.6 + 0.5).clamp(0, 1)


def hair_colour(met: Hits, which: int, parts: Ellipsoids, turn: Tensor, rays: Tensor, faces: Faces) -> tuple[Tensor, Tensor]:
    """-> colour under the light (B, 3, P), point (B, 3, P) of one shell of hair."""
    point = turn.mT @ torch.cat([rays, met.depth[:, which, None]], 1)
    normal = unit((point - parts.centre[:, which, :, None]) / parts.radius[:, which, :, None].square())
    albedo = faces.colours.hair[..., None] * strands(point, faces)[:, None]
    return lit(albedo, normal, faces, gloss=0.16), point


def hair_behind(picture: Tensor, cover: Tensor, rays: Tensor, turn: Tensor, faces: Faces, sharpness: Tensor) -> Tensor:
    """The far side of the cap, in the shade: what one sees between a temple and the outline of the hair."""
    deep = torch.full_like(rays[:, :1], -0.35)
    mask = cover * hair_mask(turn.mT @ torch.cat([rays, deep], 1), faces, sharpness)
    return over(picture, mask, faces.colours.hair * (0.25 + 0.5 * faces.shot.ambient))


# ------------------------------------------------------------------------------------------------ what covers the face


def covered(picture: Tensor, skin: Surface, faces: Faces, sharpness: Tensor) -> Tensor:
    """Glasses and scarves: they turn with the head, so they are painted on it."""
    s, shot = faces.shape, faces.shot
    x, y, z = skin.point.unbind(1)
    wide, front = x.abs(), (z / 0.15).clamp(0, 1) * skin.cover
    bottom = ((y - 0.36 - 0.12 * wide) * sharpness + 0.5).clamp(0, 1) * (z / 0.2 + 1).clamp(0, 1) * skin.cover
    folds = 0.8 + 0.2 * torch.sin(18 * y + 6 * wide)
    picture = over(picture, bottom * shot.scarf, faces.colours.cloth[..., None] * folds[:, None] * (0.4 + 0.6 * shot.ambient)[..., None])
    dx, dy = (wide - s.eye_x - 0.015) / 0.235, (y - s.eye_y - 0.02) / 0.165
    ring = (dx.square().square() + dy.square().square() + 1e-6).sqrt().sqrt()
    glass = ((1 - ring) * 0.165 * sharpness + 0.5).clamp(0, 1) * front
    rim = (1 - (ring - 1).abs() * 0.18 / (0.016 + 0.7 / sharpness)).clamp(0, 1)
    bar = (1 - (y - s.eye_y + 0.03).abs() / (0.018 + 0.7 / sharpness)).clamp(0, 1)
    bridge = bar * (wide < s.eye_x - 0.21)
    temple = bar * (wide > s.eye_x + 0.24) * skin.cover * ((z + 0.2) / 0.2).clamp(0, 1)
    frame = (torch.maximum(rim * front, bridge * front)).maximum(temple) * shot.glasses
    picture = over(picture, glass * (0.06 * shot.glasses + 0.86 * shot.dark_glasses), faces.colours.frame * 0.5 + 0.02)
    return over(picture, frame * 0.9, faces.colours.frame)


def hat(picture: Tensor, cap_point: Tensor, cap_cover: Tensor, faces: Faces, sharpness: Tensor) -> Tensor:
    """A knitted cap instead of the upper hair."""
    x, y, z = cap_point.unbind(1)
    height = -0.50 - y + 0.12 * z
    mask = (height * sharpness + 0.5).clamp(0, 1) * cap_cover * faces.shot.hat
    shade = 0.75 + 0.15 * torch.sin(30 * x) - 0.2 * (1 - (height / 0.16).clamp(0, 1)) + 0.25 * z.clamp(-0.5, 0.8)
    return over(picture, mask, faces.colours.cloth[..., None] * shade[:, None] * (0.55 + 0.45 * faces.shot.ambient)[..., None])


def thing(picture: Tensor, rays: Tensor, faces: Faces, sharpness: Tensor) -> Tensor:
    """A bar before the face: an arm, a pole, another one's shoulder."""
    there, x, y, turn, width = faces.shot.thing[..., None].unbind(1)
    dx, dy = rays[:, 0] - 0.75 * x, rays[:, 1] - 0.2 - 0.75 * y
    across = dx * torch.cos(math.pi * turn) + dy * torch.sin(math.pi * turn)
    half = 0.20 + 0.09 * width
    mask = ((half - across.abs()) * sharpness + 0.5).clamp(0, 1) * there
    shade = (1 - 0.6 * (across / half).square()).clamp(0.3, 1)
    return over(picture, mask, faces.colours.thing[..., None] * shade[:, None])


# ------------------------------------------------------------------------------------------------ camera


def developed(picture: Tensor, faces: Faces) -> Tensor:
    """Blur, exposure, contrast, black and white, noise: (B, 3, S, S) -> the same, in [0, 1]."""
    size, shot = picture.shape[-1], faces.shot
    picture = _blurred(picture, shot.blur[..., None, None] * size / 64)
    picture = (picture - 0.45) * shot.contrast[..., None, None] + 0.45
    picture = picture * shot.exposure[..., None, None]
    grey = (picture * picture.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    picture = picture + shot.grey[..., None, None] * (grey - picture)
    return (picture + _noise(faces, size) * shot.noise[..., None, None]).clamp(0, 1)


def _blurred(picture: Tensor, strength: Tensor) -> Tensor:
    """One binomial pass, mixed in by its strength (may exceed 1: then it counts as 1)."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    soft = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return picture + strength.clamp(0, 1) * (soft - picture)


def _noise(faces: Faces, size: int) -> Tensor:
    """(B, 3, size, size), mean 0, standard deviation 1, near-normal: four 8-bit numbers of one hash are added up."""
    bits = hashed(faces.indices, 0, "noise of pixels", 3 * size * size)
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + ((bits >> 24) & 255)
    return ((total - 510).float() / 147.8).unflatten(1, (3, size, size))
