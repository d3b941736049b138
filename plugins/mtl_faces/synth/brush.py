"""Soft brushes: coverage in [0, 1] from distances, so that every edge is smooth over a pixel.

Shapes: B faces, P pixels. Distances and masks are (B, P), colors (B, 3) or (B, 3, P), images
(B, 3, P).
"""

from __future__ import annotations

from torch import Tensor


def edge(distance: Tensor, sharpness: Tensor) -> Tensor:
    """Coverage from a signed distance in head units, positive inside.

    sharpness: (B, 1) pixels in a head unit.
    """
    return (distance * sharpness + 0.5).clamp(0, 1)


def stroke(distance: Tensor, width: Tensor | float, sharpness: Tensor) -> Tensor:
    """A line around distance 0, of half this width.

    A line thinner than a pixel becomes fainter and not narrower, so it does not alias.
    """
    faint = 1.3 * width / (width + 0.35 / sharpness)
    return (1 - distance.abs() / (width + 0.7 / sharpness)).clamp(0, 1) * faint


def blob(dx: Tensor, dy: Tensor | float = 0.0) -> Tensor:
    """A spot: 1 in the center, 0 from distance 1 on."""
    return (1 - dx * dx - dy * dy).clamp_min(0).square()


def over(below: Tensor, mask: Tensor, color: Tensor) -> Tensor:
    """Paint a color over an image where the mask is 1."""
    color = color[..., None] if color.dim() == 2 else color
    return below + mask[:, None] * (color - below)
