"""From colours to a picture: blur, contrast, exposure, black and white, and the noise of a sensor."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .draws import hashed
from .parameters import Faces


def developed(picture: Tensor, faces: Faces) -> Tensor:
    """(B, 3, S, S) colours -> (B, 3, S, S) in [0, 1]."""
    size = picture.shape[-1]
    blur, contrast, exposure, grey, noise = (
        value[..., None, None]
        for value in (faces.shot.blur, faces.shot.contrast, faces.shot.exposure, faces.shot.grey, faces.shot.noise)
    )
    picture = _blurred(picture, (blur * size / 64).clamp(0, 1))
    picture = ((picture - 0.45) * contrast + 0.45) * exposure
    lightness = (picture * picture.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    picture = picture + grey * (lightness - picture)
    return (picture + noise * _noise(faces, size)).clamp(0, 1)


def _blurred(picture: Tensor, strength: Tensor) -> Tensor:
    """One binomial pass of 3 x 3, mixed in by its strength in [0, 1]."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    soft = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return picture + strength * (soft - picture)


def _noise(faces: Faces, size: int) -> Tensor:
    """(B, 3, size, size), mean 0, standard deviation 1, near-normal: four bytes of one hash, added up."""
    bits = hashed(faces.key, 0, "noise of pixels", 3 * size * size)
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + ((bits >> 24) & 255)
    return ((total - 510).float() / 147.8).unflatten(1, (3, size, size))
