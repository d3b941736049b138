"""index -> picture and labels: the same face on every machine, whatever batch it is asked in.

The whole pipeline is arithmetic on (batch, pixels) tensors: draw parameters, send parallel rays, paint the surface where they
land, light it, put things before and behind, develop. Colours depend smoothly on floats, so that machines agree to 1/255.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .face3d import Hits, Surface, basis, hair_parts, hits, joined, rotation, skin_parts, to_pixels
from .paint import over, paint_face
from .parameters import Faces, draw_faces
from .scene import background, body, covered, developed, hair_behind, hair_colour, hair_mask, hat, lit, neck, thing

_AT_ONCE = 8  # faces: what is in the works stays in the processor's cache


class Labels(NamedTuple):
    """emotion: (B,) int64, in the order of `Emotion`. pose_deg: (B, 3) float32: yaw, pitch, roll. gender: (B,) int64: 0 male, 1 female."""

    emotion: Tensor
    pose_deg: Tensor
    gender: Tensor


def labels(indices: Tensor, seed: int) -> Labels:
    """indices: (B,) int64 >= 0 -> the exact labels. Every aligned run of 16 indices holds each emotion once with each gender."""
    faces = draw_faces(indices, seed)
    return Labels(faces.emotion, faces.pose_deg, faces.female[:, 0].long())


def landmarks(indices: Tensor, size: int, seed: int, pose_deg: Tensor | None = None) -> Tensor:
    """Pixel positions (B, L, 2) of the points that `LANDMARKS` names, hidden ones too.

    Pixels: x right, y down, (0, 0) the outer corner of the first pixel. pose_deg: (B, 3) yaw, pitch, roll: the same faces, turned
    otherwise about their centre (the last landmark). Parallel rays: the offsets from it are scale * size * (R p), exactly.
    """
    return to_pixels(draw_faces(indices, seed), size, pose_deg)


def render(indices: Tensor, size: int, seed: int) -> Tensor:
    """indices: (B,) int64 >= 0 -> pictures (B, 3, size, size) uint8 RGB."""
    faces = draw_faces(indices, seed)
    done = [_pictures(faces.rows(i, i + _AT_ONCE), size) for i in range(0, len(indices), _AT_ONCE)]
    return torch.cat(done) if done else torch.zeros(0, 3, size, size, dtype=torch.uint8, device=indices.device)


def _rays(faces: Faces, size: int) -> Tensor:
    """(B, 2, P): the pixels' centres in view axes, in head units from the head's centre."""
    centres = (torch.arange(size, device=faces.indices.device) + 0.5) / size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()])
    return (pixels - faces.shot.centre[..., None]) / faces.shot.scale[..., None]


def _pictures(faces: Faces, size: int) -> Tensor:
    rays, sharpness = _rays(faces, size), faces.shot.scale * size
    turn = rotation(faces.pose_deg)
    hair = hair_parts(faces)
    monomials = basis(rays)
    shells = hits(hair, turn, monomials, sharpness)
    picture = body(background(rays, faces), rays, faces, sharpness)
    hanging, _ = hair_colour(shells, 1, hair, turn, rays, faces)
    picture = over(picture, shells.cover[:, 1] * (faces.shape.hair_length * 4).clamp(0, 1), hanging * 0.75)
    picture = hair_behind(picture, shells.cover[:, 0], rays, turn, faces, sharpness)
    picture = neck(picture, rays, faces, sharpness)
    parts = skin_parts(faces)
    skin = joined(hits(parts, turn, monomials, sharpness), parts, turn, rays)
    face = covered(lit(paint_face(skin, faces, sharpness), skin.normal, faces), skin, faces, sharpness)
    picture = over(picture, skin.cover, face)
    picture = _hair(picture, skin, shells, hair_colour(shells, 0, hair, turn, rays, faces), faces, sharpness)
    picture = thing(picture, rays, faces, sharpness)
    picture = developed(picture.unflatten(2, (size, size)), faces)
    return (picture * 255).round().to(torch.uint8)


def _hair(picture: Tensor, skin: Surface, shells: Hits, cap: tuple[Tensor, Tensor], faces: Faces, sharpness: Tensor) -> Tensor:
    """The cap of hair, where it lies before the skin or stands out beside it; then the hat."""
    colour, point = cap
    nearer = ((shells.depth[:, 0] - skin.depth) / 0.03 + 0.5).clamp(0, 1)
    cover = shells.cover[:, 0] * (1 - skin.cover * (1 - nearer))
    picture = over(picture, cover * hair_mask(point, faces, sharpness), colour)
    return hat(picture, point, cover, faces, sharpness)
