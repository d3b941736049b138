"""index -> image and labels: the same face on every machine, whatever batch it is asked in.

All is arithmetic on (faces, pixels) tensors: draw parameters, send parallel rays, paint the surface where they land,
light it, put things before and behind, develop. Colors depend smoothly on floats, so that machines agree to 1/255.
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

_RAYS_AT_ONCE = 2**15  # what is in the works stays in the processor's cache


class Labels(NamedTuple):
    """emotion: (B,) int64, in the order of `Emotion`. pose_deg: (B, 3) float32: yaw, pitch, roll.
    gender: (B,) int64: 0 male, 1 female."""

    emotion: Tensor
    pose_deg: Tensor
    gender: Tensor


def labels(indices: Tensor, seed: int) -> Labels:
    """indices: (B,) int64 >= 0 -> the exact labels. Sixteen neighbors (16 k ... 16 k + 15) hold each emotion once a
    gender.
    """
    faces = draw_faces(indices, seed)
    return Labels(faces.emotion, faces.pose_deg, faces.female[:, 0].long())


def landmarks(indices: Tensor, size: int, seed: int, pose_deg: Tensor | None = None) -> Tensor:
    """Pixel positions (B, L, 2) of the points that `LANDMARKS` names, hidden ones too.

    Pixels: x right, y down, (0, 0) the outer corner of the first pixel. pose_deg: (B, 3) yaw, pitch, roll: the same
    faces, turned otherwise about their center (the last landmark). Rays are parallel: a point's offset from the center
    is the first two rows of scale * size * R p, exactly.
    """
    return to_pixels(draw_faces(indices, seed), size, pose_deg)


def render(indices: Tensor, size: int, seed: int) -> Tensor:
    """indices: (B,) int64 >= 0 -> images (B, 3, size, size) uint8 RGB."""
    faces, step = draw_faces(indices, seed), max(1, _RAYS_AT_ONCE // size**2)
    done = [_images(faces.rows(i, i + step), size) for i in range(0, len(indices), step)]
    return (
        torch.cat(done)
        if done
        else torch.zeros(0, 3, size, size, dtype=torch.uint8, device=indices.device)
    )


def _framed(faces: Faces, size: int) -> Frame:
    """Rays through the middles of size x size pixels."""
    middles = (torch.arange(size, device=faces.key.device) + 0.5) / size
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    rays = (
        torch.stack([x.flatten(), y.flatten()]) - faces.shot.center[..., None]
    ) / faces.shot.scale[..., None]
    return Frame(faces, rays, rotation(faces.pose_deg), faces.shot.scale * size)


def _images(faces: Faces, size: int) -> Tensor:
    """From the back to the front."""
    frame = _framed(faces, size)
    hair, skin = Hair(frame), joined(skin_parts(faces), frame)
    image = shoulders(background(frame), frame)
    image = neck(hair.behind(image), frame)
    image = over(image, skin.cover, lit(paint_face(skin, frame), skin.normal, frame))
    image = glasses(scarf(image, skin, frame), skin, frame)
    image = thing(hair.over_head(image, skin), frame)
    image = developed(image.unflatten(2, (size, size)), faces)
    return (image * 255).round().to(torch.uint8)
