"""Soft brushes: coverage in [0, 1] from distances, so that every edge is smooth over a pixel.

Shapes: B faces, P pixels; distances and masks are (B, P), colors (B, 3) or (B, 3, P), images (B, 3, P).
"""

from __future__ import annotations

from torch import Tensor


def edge(distance: Tensor, sharpness: Tensor) -> Tensor:
    """Signed distance in head units, positive inside -> coverage. sharpness: (B, 1) pixels in a head unit."""
    return (distance * sharpness + 0.5).clamp(0, 1)


def stroke(distance: Tensor, width: Tensor | float, sharpness: Tensor) -> Tensor:
    """A line of half that width around distance 0; one that is thinner than a pixel grows faint, not narrow."""
    faint = 1.3 * width / (width + 0.35 / sharpness)
    return (1 - distance.abs() / (width + 0.7 / sharpness)).clamp(0, 1) * faint


def blob(dx: Tensor, dy: Tensor | float = 0.0) -> Tensor:
    """1 in the middle, 0 at distance 1."""
    return (1 - dx * dx - dy * dy).clamp_min(0).square()


def over(below: Tensor, mask: Tensor, color: Tensor) -> Tensor:
    """Paint a color over an image where the mask is 1."""
    color = color[..., None] if color.dim() == 2 else color
    return below + mask[:, None] * (color - below)
