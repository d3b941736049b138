"""From colors to an image: blur, contrast, exposure, black and white, sensor noise."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .draws import hashed
from .parameters import Faces


def developed(image: Tensor, faces: Faces) -> Tensor:
    """Colors (B, 3, S, S) -> an image (B, 3, S, S) in [0, 1]."""
    size = image.shape[-1]
    shot = faces.shot
    # The blur is of a fixed width in the scene, so larger images need more of it.
    image = _blurred(image, (_as_map(shot.blur) * size / 64).clamp(0, 1))
    image = ((image - 0.45) * _as_map(shot.contrast) + 0.45) * _as_map(shot.exposure)
    weights = image.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    lightness = (image * weights).sum(1, keepdim=True)
    image = image + _as_map(shot.gray) * (lightness - image)
    return (image + _as_map(shot.noise) * _noise(faces, size)).clamp(0, 1)


def _as_map(value: Tensor) -> Tensor:
    """(B, 1) -> (B, 1, 1, 1)."""
    return value[..., None, None]


def _blurred(image: Tensor, strength: Tensor) -> Tensor:
    """Blend with a 3 x 3 binomial blur, by its strength in [0, 1]."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    above, middle, below = padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :]
    vertical = (above + 2 * middle + below) / 4
    left, center, right = vertical[..., :-2], vertical[..., 1:-1], vertical[..., 2:]
    soft = (left + 2 * center + right) / 4
    return image + strength * (soft - image)


def _noise(faces: Faces, size: int) -> Tensor:
    """(B, 3, size, size): nearly normal noise with mean 0 and standard deviation 1."""
    # Sums of four bytes of one hash: integers, so they are the same on every machine.
    bits = hashed(faces.key, 0, "noise of pixels", 3 * size * size)
    total = bits & 255
    for shift in (8, 16, 24):
        total = total + ((bits >> shift) & 255)
    noise = (total - 510).float() / 147.8
    return noise.unflatten(1, (3, size, size))
