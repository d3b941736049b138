"""Draw maps and points on images.

Images are (3, H, W) float in [0, 1].
"""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

OPACITY = 0.6  # of a map on its image
GOLDEN = 0.618034  # of the circle of hues, from class to class: neighbors differ clearly


def class_colors(classes: int) -> Tensor:
    """Return (C, 3) RGB in [0, 1], a color of its own for each class."""
    colors = []
    for number in range(classes):
        hue = (number * GOLDEN) % 1
        colors.append(colorsys.hsv_to_rgb(hue, 0.9 - 0.35 * (number % 2), 1 - 0.2 * (number % 3)))
    return torch.tensor(colors)


def blended(image: Tensor, colors: Tensor, known: Tensor) -> Tensor:
    """Lay colors (3, H, W) on an image where known (H, W) is True."""
    mixed = torch.lerp(image, colors.to(image), OPACITY)
    return torch.where(known.to(image.device), mixed, image).clamp(0, 1)


def heat(values: Tensor) -> Tensor:
    """Convert numbers (H, W) in [0, 1] to colors (3, H, W), from blue over green to red."""
    red = (1.5 - (4 * values - 3).abs()).clamp(0, 1)
    green = (1.5 - (4 * values - 2).abs()).clamp(0, 1)
    blue = (1.5 - (4 * values - 1).abs()).clamp(0, 1)
    return torch.stack([red, green, blue])


def with_points(image: Tensor, points: Tensor) -> Tensor:
    """Draw points (K, 2), x and y in pixels, as dots with a dark rim. NaN points are left out.

    A dot is smooth, so that it shows where between two pixels a point is. The color goes with the
    number of the point.
    """
    height, width = image.shape[-2:]
    radius = max(1.0, 0.012 * max(height, width))
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    colors = class_colors(len(points))
    drawn = image.clone()
    for (px, py), color in zip(points.float().cpu().tolist(), colors):
        if px != px or py != py:
            continue
        distance = torch.hypot(x - px, y - py)
        rim = (radius + 1.5 - distance).clamp(0, 1).to(image)
        dot = (radius + 0.5 - distance).clamp(0, 1).to(image)
        drawn = drawn * (1 - rim)
        drawn = drawn + dot * color.to(image)[:, None, None]
    return drawn.clamp(0, 1)
