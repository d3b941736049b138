"""From colors to an image: blur, contrast, exposure, black and white, and the noise of a sensor."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .draws import hashed
from .parameters import Faces


def developed(image: Tensor, faces: Faces) -> Tensor:
    """(B, 3, S, S) colors -> (B, 3, S, S) in [0, 1]."""
    size = image.shape[-1]
    blur, contrast, exposure, gray, noise = (
        value[..., None, None]
        for value in (
            faces.shot.blur,
            faces.shot.contrast,
            faces.shot.exposure,
            faces.shot.gray,
            faces.shot.noise,
        )
    )
    image = _blurred(image, (blur * size / 64).clamp(0, 1))
    image = ((image - 0.45) * contrast + 0.45) * exposure
    lightness = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(
        1, keepdim=True
    )
    image = image + gray * (lightness - image)
    return (image + noise * _noise(faces, size)).clamp(0, 1)


def _blurred(image: Tensor, strength: Tensor) -> Tensor:
    """One binomial pass of 3 x 3, mixed in by its strength in [0, 1]."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    soft = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return image + strength * (soft - image)


def _noise(faces: Faces, size: int) -> Tensor:
    """(B, 3, size, size), mean 0, standard deviation 1, near-normal: four bytes of one hash, added up."""
    bits = hashed(faces.key, 0, "noise of pixels", 3 * size * size)
    total = (bits & 255) + ((bits >> 8) & 255) + ((bits >> 16) & 255) + ((bits >> 24) & 255)
    return ((total - 510).float() / 147.8).unflatten(1, (3, size, size))
