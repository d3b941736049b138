"""Light and what is not the head: background, shoulders, neck, scarf, glasses, things in front.

Shapes: B faces, P pixels; images and colors (B, 3, P).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .brush import edge, over, stroke
from .face3d import Frame, Surface


def lit(albedo: Tensor, normal: Tensor, frame: Frame, gloss: float = 0.10) -> Tensor:
    """Light a surface by one soft lamp and by ambient light.

    albedo: (B, 3, P). normal: (B, 3, P) in head axes.
    """
    shot = frame.faces.shot
    # Blinn-Phong: the highlight is where the normal is halfway between lamp and viewer.
    half = shot.light + shot.light.new_tensor([0.0, 0.0, 1.0])
    half = half / half.norm(dim=1, keepdim=True)
    toward = torch.stack([frame.to_head(shot.light), frame.to_head(half)], 1)  # (B, 2, 3)
    facing, mirror = (toward @ normal).unbind(1)
    diffuse = (0.8 * facing + 0.2).clamp_min(0)
    shine = mirror.clamp_min(0).square().square().square() * gloss * (1 - shot.ambient)
    light = shot.ambient + (1.08 - shot.ambient) * diffuse
    return albedo * light[:, None] * frame.faces.colors.light[..., None] + shine[:, None]


def background(frame: Frame) -> Tensor:
    """Mix two colors by three slow waves, and paint a band across."""
    x, y = frame.rays.unbind(1)
    shot, colors = frame.faces.shot, frame.faces.colors
    waves = (shot.waves[:, 3 * i : 3 * i + 3, None].unbind(1) for i in range(3))
    mix = sum(
        (torch.sin(2.6 * (fx * x + fy * y) + math.pi * phase) for fx, fy, phase in waves),
        torch.zeros_like(x),
    )
    first = colors.back_one[..., None].expand(-1, -1, x.shape[1])
    image = over(first, (0.5 + 0.3 * mix).clamp(0, 1), colors.back_two)
    turn, offset, width, strength = shot.stripe[..., None].unbind(1)
    across = x * torch.cos(math.pi * turn) + y * torch.sin(math.pi * turn)
    distance = (across - 3 * offset + 1.5).abs()
    band = edge(0.1 + 0.4 * width - distance, frame.sharpness) * strength
    return over(image, band, 1 - colors.back_one * 0.8)


def neck_base(frame: Frame) -> Tensor:
    """(B, 2): where the neck meets the head, in view axes."""
    return (frame.turn @ frame.turn.new_tensor([0.0, 0.62, -0.22]))[:, :2]


def shoulders(image: Tensor, frame: Frame) -> Tensor:
    """Paint the clothes: an ellipse below the neck."""
    base = neck_base(frame)
    dx = (frame.rays[:, 0] - 0.6 * base[:, :1]) / 1.45
    dy = (frame.rays[:, 1] - base[:, 1:] - 1.25) / 0.85
    round_shade = (1.0 - 0.35 * dx.abs()).clamp(0.3, 1)
    shade = round_shade * (0.5 + 0.5 * frame.faces.shot.ambient)
    inside = edge(0.5 * (1 - dx.square() - dy.square()), frame.sharpness)
    return over(image, inside, frame.faces.colors.clothes[..., None] * shade[:, None])


def neck(image: Tensor, frame: Frame) -> Tensor:
    """Paint a column from the head to the collar, in the shade of the chin."""
    shot = frame.faces.shot
    base = neck_base(frame)
    down = frame.rays[:, 1] - base[:, 1:]
    half = 0.36 + 0.04 * (1 - frame.faces.female) + 0.10 * (down - 0.35).clamp_min(0).square()
    across = (frame.rays[:, 0] - base[:, :1] * (1 - 0.4 * down.clamp(0, 1))) / half
    collar = ((1.0 - 0.25 * across.square() - down) * 8).clamp(0, 1)
    column = edge((1 - across.abs()) * half, frame.sharpness)
    mask = column * collar * (down * 8 + 1).clamp(0, 1)
    round_side = (1 - across.square()).clamp_min(0).sqrt()
    facing = (across * shot.light[:, :1] + round_side * shot.light[:, 2:]).clamp_min(0)
    light = shot.ambient + (1 - shot.ambient) * facing
    light = light * (0.50 + 0.35 * (down - 0.2).clamp(0, 1))
    colors = frame.faces.colors
    return over(image, mask, (colors.skin * colors.light)[..., None] * light[:, None])


# ---------------------------------------------------------------------------- what covers the face


def scarf(image: Tensor, skin: Surface, frame: Frame) -> Tensor:
    """Paint a scarf over mouth and nose, on the skin, so that it turns with the head."""
    x, y, z = skin.point.unbind(1)
    shot = frame.faces.shot
    wide = x.abs()
    mask = (
        edge(y - 0.36 - 0.12 * wide, frame.sharpness)
        * (z / 0.2 + 1).clamp(0, 1)
        * skin.cover
        * shot.scarf
    )
    folds = (0.8 + 0.2 * torch.sin(18 * y + 6 * wide)) * (0.4 + 0.6 * shot.ambient)
    return over(image, mask, frame.faces.colors.cloth[..., None] * folds[:, None])


def glasses(image: Tensor, skin: Surface, frame: Frame) -> Tensor:
    """Paint rims, bridge and temples on the skin like the scarf; some glasses are dark."""
    x, y, z = skin.point.unbind(1)
    s = frame.faces.shape
    shot = frame.faces.shot
    color = frame.faces.colors.frame
    wide = x.abs()
    front = (z / 0.15).clamp(0, 1) * skin.cover

    # The 4-norm gives rounded rectangles.
    dx = (wide - s.eye_x - 0.015) / 0.235
    dy = (y - s.eye_y - 0.02) / 0.165
    ring = (dx.square().square() + dy.square().square() + 1e-6).sqrt().sqrt()
    glass = edge((1 - ring) * 0.165, frame.sharpness) * front
    tint = glass * (0.06 * shot.glasses + 0.86 * shot.dark_glasses)
    image = over(image, tint, color * 0.5 + 0.02)

    bar = stroke(y - s.eye_y + 0.03, 0.018, frame.sharpness)
    bridge = bar * edge(s.eye_x - 0.21 - wide, frame.sharpness) * front
    temple = (
        bar
        * edge(wide - s.eye_x - 0.24, frame.sharpness)
        * skin.cover
        * ((z + 0.2) / 0.2).clamp(0, 1)
    )
    rim = stroke((ring - 1) * 0.18, 0.016, frame.sharpness) * front
    wire = rim.maximum(bridge).maximum(temple).clamp(0, 1)
    return over(image, 0.9 * wire * shot.glasses, color)


def thing(image: Tensor, frame: Frame) -> Tensor:
    """Paint a bar in front of the face: an arm, a pole, another person's shoulder."""
    there, x, y, turn, width = frame.faces.shot.thing[..., None].unbind(1)
    dx = frame.rays[:, 0] - 0.75 * x
    dy = frame.rays[:, 1] - 0.2 - 0.75 * y
    half = 0.20 + 0.09 * width
    across = dx * torch.cos(math.pi * turn) + dy * torch.sin(math.pi * turn)
    shade = (1 - 0.6 * (across / half).square()).clamp(0.3, 1)
    mask = edge(half - across.abs(), frame.sharpness) * there
    return over(image, mask, frame.faces.colors.thing[..., None] * shade[:, None])
