"""index -> image and labels: the same face on every machine and in every batch.

Everything is arithmetic on (faces, pixels) tensors: draw parameters, send parallel rays, paint the
surface where they hit, light it, add what is before and behind, develop. Colors depend smoothly on
floats, so machines agree to 1/255.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .brush import over
from .camera import developed
from .face3d import Frame, joined, rotation, skin_parts, to_pixels
from .hair import Hair
from .paint import paint_face
from .parameters import Faces, draw_faces
from .scene import background, glasses, lit, neck, scarf, shoulders, thing

_RAYS_AT_ONCE = 2**15  # so that intermediate tensors fit into the processor's cache


class Labels(NamedTuple):
    """Exact labels of B faces.

    emotion: (B,) int64, in the order of `Emotion`.
    pose_deg: (B, 3) float32, yaw, pitch, roll.
    gender: (B,) int64, 0 male, 1 female.
    """

    emotion: Tensor
    pose_deg: Tensor
    gender: Tensor


def labels(indices: Tensor, seed: int) -> Labels:
    """Return the exact labels of these faces, (B,) int64 >= 0.

    The faces 16 k ... 16 k + 15 have each pair of emotion and gender once.
    """
    faces = draw_faces(indices, seed)
    return Labels(faces.emotion, faces.pose_deg, faces.female[:, 0].long())


def landmarks(indices: Tensor, size: int, seed: int, pose_deg: Tensor | None = None) -> Tensor:
    """Return pixel positions (B, L, 2) of the points in `LANDMARKS`, also of hidden ones.

    x right, y down, (0, 0) the outer corner of the first pixel.

    pose_deg: (B, 3) yaw, pitch, roll; rotates the same faces about their center (the last landmark)
    to another pose. Rays are parallel, so the offset of a point p from the center is exactly the
    first two rows of scale * size * R p.
    """
    return to_pixels(draw_faces(indices, seed), size, pose_deg)


def render(indices: Tensor, size: int, seed: int) -> Tensor:
    """Render these faces, (B,) int64 >= 0, as images (B, 3, size, size) uint8 RGB."""
    faces = draw_faces(indices, seed)
    if len(indices) == 0:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8, device=indices.device)
    step = max(1, _RAYS_AT_ONCE // size**2)
    starts = range(0, len(indices), step)
    return torch.cat([_images(faces.select(start, start + step), size) for start in starts])


def _framed(faces: Faces, size: int) -> Frame:
    """Send rays through the centers of size x size pixels."""
    shot = faces.shot
    centers = (torch.arange(size, device=faces.key.device) + 0.5) / size
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()])
    rays = (pixels - shot.center[..., None]) / shot.scale[..., None]
    return Frame(faces, rays, rotation(faces.pose_deg), shot.scale * size)


def _images(faces: Faces, size: int) -> Tensor:
    """Paint from the back to the front."""
    frame = _framed(faces, size)
    hair = Hair(frame)
    skin = joined(skin_parts(faces), frame)
    image = shoulders(background(frame), frame)
    image = neck(hair.behind(image), frame)
    face = lit(paint_face(skin, frame), skin.normal, frame)
    image = over(image, skin.cover, face)
    image = glasses(scarf(image, skin, frame), skin, frame)
    image = thing(hair.over_head(image, skin), frame)
    image = developed(image.unflatten(2, (size, size)), faces)
    return (image * 255).round().to(torch.uint8)
