"""The colours of a face: eyes, brows, mouth, folds, beard and all that lies ON the skin, as functions of the point in head axes.

What is painted turns with the head, since it is a function of the head's own coordinates. Edges are signed distances made
soft over one pixel. Folds are painted as shade: at 64 pixels that is what one sees of them.
Shapes: B faces, P pixels; coordinates and masks are (B, P), parameters (B, 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .actions import Actions
from .face3d import Surface, mouth_width
from .parameters import Faces


class Canvas(NamedTuple):
    """Where we paint, and with which brush. x, y, z: the skin's points; wide = |x|; right: 0 left ... 1 right."""

    x: Tensor
    y: Tensor
    z: Tensor
    wide: Tensor
    right: Tensor
    sharpness: Tensor  # (B, 1) pixels in a head unit
    front: Tensor  # (B, P) 1 on the face, 0 on the back of the head

    def edge(self, distance: Tensor) -> Tensor:
        """Signed distance in head units, positive inside -> coverage in [0, 1]."""
        return (distance * self.sharpness + 0.5).clamp(0, 1)

    def side(self, action: Tensor) -> Tensor:
        """(B, 2) left and right strength -> (B, P)."""
        return action[:, :1] + (action[:, 1:] - action[:, :1]) * self.right

    def line(self, distance: Tensor, width: Tensor | float) -> Tensor:
        """A stroke around distance 0; thinner than a pixel it grows faint, not narrow."""
        return (1 - distance.abs() / (width + 0.7 / self.sharpness)).clamp(0, 1) * self.faint(width)

    def faint(self, width: Tensor | float) -> Tensor:
        return (width / (width + 0.35 / self.sharpness)) * 1.3


def canvas(surface: Surface, sharpness: Tensor) -> Canvas:
    x, y, z = surface.point.unbind(1)
    right = (x / 0.08 + 0.5).clamp(0, 1)
    return Canvas(x, y, z, x.abs(), right, sharpness, (z / 0.15).clamp(0, 1))


def blob(dx: Tensor, dy: Tensor) -> Tensor:
    """1 in the middle, 0 at distance 1."""
    return (1 - dx.square() - dy.square()).clamp_min(0).square()


def over(below: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """Paint: below (B, 3, P), mask (B, P), colour (B, 3) or (B, 3, P)."""
    colour = colour[..., None] if colour.dim() == 2 else colour
    return below + mask[:, None] * (colour - below)


def paint_face(surface: Surface, faces: Faces, sharpness: Tensor) -> Tensor:
    """The colour of the skin with everything on it, before the light, (B, 3, P)."""
    c = canvas(surface, sharpness)
    albedo = faces.colours.skin[..., None] * _shade(c, faces)[:, None]
    albedo = _flush(c, faces, albedo)
    albedo = _beard(c, faces, albedo)
    albedo = _nostrils(c, faces, albedo)
    albedo = _mouth(c, faces, albedo)
    albedo = _eyes(c, faces, albedo)
    return _brows(c, faces, albedo)


# ------------------------------------------------------------------------------------------------ skin


def _shade(c: Canvas, faces: Faces) -> Tensor:
    """Folds and hollows: a factor in (0, 1]."""
    s, a = faces.shape, faces.actions
    dark = 0.30 * blob((c.wide - s.eye_x * 0.92) / 0.26, (c.y - s.eye_y + 0.02) / 0.15)
    dark = dark + 0.16 * s.age * blob((c.wide - s.eye_x) / 0.17, (c.y - s.eye_y - 0.12) / 0.05)
    dark = dark + _brow_folds(c, faces) + _cheek_folds(c, faces)
    under = s.mouth_y + 0.17 + 0.16 * a.jaw.mean(1, keepdim=True)
    dark = dark + (0.16 + 0.22 * c.side(a.chin)) * blob(c.wide / 0.2, (c.y - under) / 0.05)
    return 1 - (dark * c.front).clamp(0, 0.75)


def _brow_folds(c: Canvas, faces: Faces) -> Tensor:
    s, a = faces.shape, faces.actions
    rise = c.side(a.inner_brow).clamp(0, 1) * (0.45 + 0.55 * c.side(a.outer_brow).clamp(0, 1))
    waves = 1 - ((c.y + 0.30) / 0.105).frac().abs().sub(0.5).abs() * 3.2
    forehead = waves.clamp(0, 1) * blob(c.wide / 0.5, (c.y + 0.42) / 0.19) * (0.34 * rise + 0.14 * s.age)
    frown = c.line(c.wide - 0.05, 0.016) * blob(c.wide / 0.12, (c.y - s.brow_y - 0.03) / 0.17) * c.side(a.brow_lower) * 0.75
    ridge = 1 - ((c.y + 0.2) / 0.075).frac().abs().sub(0.5).abs() * 3
    wrinkle = ridge.clamp(0, 1) * blob(c.wide / 0.17, (c.y - 0.05) / 0.16) * c.side(a.nose_wrinkle) * 0.5
    return forehead + frown + wrinkle


def _cheek_folds(c: Canvas, faces: Faces) -> Tensor:
    s, a = faces.shape, faces.actions
    pull, lift, wrinkle = c.side(a.corner_pull), c.side(a.lip_raise), c.side(a.nose_wrinkle)
    reach = mouth_width(faces) + 0.075
    down = ((c.y - s.nose_length + 0.07) / (s.mouth_y - s.nose_length + 0.09)).clamp(0, 1)
    place = 0.155 * s.nose_width + (reach - 0.155 * s.nose_width) * down.sqrt()
    strength = 0.16 * s.age + 0.40 * pull + 0.34 * lift + 0.26 * wrinkle
    fold = c.line(c.wide - place, 0.022) * (1 - (2 * down - 1).square()) * strength
    corner = blob((c.wide - reach + 0.02) / 0.055, (c.y - s.mouth_y + 0.05 * pull) / 0.075) * (0.42 * c.side(a.dimple) + 0.13 * pull)
    lid = c.side(a.cheek) * 0.35 * c.line(c.y - s.eye_y - 0.105 - 0.5 * (c.wide - s.eye_x).square(), 0.02)
    feet = blob((c.wide - s.eye_x - 0.24) / 0.07, (c.y - s.eye_y) / 0.09) * c.side(a.cheek) * 0.22
    return fold + corner + lid * blob((c.wide - s.eye_x) / 0.22, (c.y - s.eye_y - 0.1) / 0.2) + feet


def _flush(c: Canvas, faces: Faces, albedo: Tensor) -> Tensor:
    """Blood in cheeks and nose."""
    red = albedo * albedo.new_tensor([1.05, 0.80, 0.80])[:, None]
    cheeks = blob((c.wide - 0.40) / 0.28, (c.y - 0.30) / 0.24) * (0.35 + 0.65 * faces.shape.make_up)
    nose = blob(c.wide / 0.16, (c.y - faces.shape.nose_length + 0.05) / 0.16) * 0.45
    return over(albedo, (cheeks + nose) * c.front, red)


def _beard(c: Canvas, faces: Faces, albedo: Tensor) -> Tensor:
    s = faces.shape
    low = ((c.y - 0.50 - 0.25 * (0.45 - c.wide).clamp_min(0)) / 0.14).clamp(0, 1) * ((0.75 - c.wide) / 0.1).clamp(0, 1)
    lip = blob(c.wide / 0.34, (c.y - s.mouth_y + 0.125) / 0.085).sqrt()
    grown = torch.maximum(low * s.beard, lip * s.moustache) * 0.88
    shadow = torch.maximum(low, lip) * s.stubble * 0.45
    front = (c.z / 0.2 + 1).clamp(0, 1)
    return over(albedo, torch.maximum(grown, shadow) * front, faces.colours.hair * 0.85)


def _nostrils(c: Canvas, faces: Faces, albedo: Tensor) -> Tensor:
    s = faces.shape
    hole = blob((c.wide - 0.062 * s.nose_width) / 0.052, (c.y - s.nose_length - 0.045) / 0.034) * 0.8
    wing = blob((c.wide - 0.165 * s.nose_width) / 0.035, (c.y - s.nose_length) / 0.085) * 0.30
    under = blob(c.wide / 0.16, (c.y - s.nose_length - 0.075) / 0.05) * 0.30
    return over(albedo, (hole + wing + under).clamp(0, 1) * c.front, faces.colours.skin * 0.22)


# ------------------------------------------------------------------------------------------------ eyes and brows


def _eyes(c: Canvas, faces: Faces, albedo: Tensor) -> Tensor:
    s, a = faces.shape, faces.actions
    u = (c.wide - s.eye_x) / s.eye_width
    v = c.y - s.eye_y + s.eye_slant * (c.wide - s.eye_x)
    arch = (1 - u.square()).clamp_min(0)
    upper = -(s.eye_height * (1 + 0.75 * c.side(a.lid_widen) - 0.5 * c.side(a.lid_tighten) - 0.15 * c.side(a.cheek))).clamp_min(0.012)
    sad = 0.35 * s.eye_height * c.side(a.inner_brow) * (1 - c.side(a.outer_brow)).clamp_min(0)
    upper = upper * arch.pow(0.75) + sad * u.clamp(-1, 1) * arch
    lower = (s.eye_height * (0.62 + 0.3 * c.side(a.lid_widen) - 0.3 * c.side(a.lid_tighten) - 0.5 * c.side(a.cheek))).clamp_min(0.005) * arch
    there = c.edge((1 - u.abs()) * s.eye_width) * c.front
    opening = c.edge(v - upper) * c.edge(lower - v) * there
    white = (0.93 - 0.30 * blob((v - upper) / 0.05, 0 * v))[:, None] * albedo.new_tensor([1.0, 0.98, 0.96])[:, None]
    albedo = over(albedo, opening, white)
    albedo = _iris(c, faces, albedo, opening)
    lash = c.line(v - upper, 0.014 + 0.016 * s.make_up) * there * (0.7 + 0.3 * s.make_up)
    crease = c.line(v - upper * 1.15 + 0.05, 0.008) * there * 0.45
    rim = c.line(v - lower, 0.006) * there * (0.35 + 0.4 * s.make_up)
    ink = faces.colours.hair * 0.18 + 0.02
    albedo = over(albedo, crease, faces.colours.skin * 0.45)
    return over(albedo, (lash + rim).clamp(0, 1), ink)


def _iris(c: Canvas, faces: Faces, albedo: Tensor, opening: Tensor) -> Tensor:
    s, shot = faces.shape, faces.shot
    dx = c.x - (2 * (c.x > 0) - 1) * s.eye_x - shot.gaze[:, :1]
    dy = c.y - s.eye_y + 0.01 - shot.gaze[:, 1:]
    far = (dx.square() + dy.square() + 1e-6).sqrt()
    albedo = over(albedo, c.edge(s.iris - far) * opening, faces.colours.iris)
    albedo = over(albedo, c.line(far - s.iris, 0.008) * opening * 0.6, faces.colours.iris * 0.3)
    albedo = over(albedo, c.edge(0.42 * s.iris - far) * opening, faces.colours.iris * 0.08)
    spark = blob((dx + 0.025) / 0.028, (dy + 0.028) / 0.028) * opening
    return over(albedo, spark, albedo.new_ones(len(albedo), 3))


def _brows(c: Canvas, faces: Faces, albedo: Tensor) -> Tensor:
    s, a = faces.shape, faces.actions
    inner, outer, lower = c.side(a.inner_brow), c.side(a.outer_brow), c.side(a.brow_lower)
    start, end = 0.125 - 0.045 * lower, 0.50
    t = (c.wide - start) / (end - start)
    at = t.clamp(0, 1)
    heights = (
        0.015 - 0.16 * inner + 0.14 * lower,
        -0.04 - 2 * s.brow_arch - 0.07 * inner - 0.15 * outer + 0.07 * lower,
        0.035 + 0.03 * inner - 0.12 * outer - 0.03 * lower,
    )
    curve = (1 - at).square() * heights[0] + 2 * at * (1 - at) * heights[1] + at.square() * heights[2]
    thick = s.brow_thickness * (0.65 + 0.9 * at - 1.25 * at.square()) * (1 + 0.2 * lower)
    mask = c.edge(thick - (c.y - s.brow_y - curve).abs()) * c.edge((0.5 - (t - 0.5).abs()) * (end - start))
    return over(albedo, mask * s.brow_alpha * c.front, faces.colours.hair * 0.6)


# ------------------------------------------------------------------------------------------------ mouth


class _Mouth(NamedTuple):
    """Heights of the lips' edges, (B, P), from top to bottom; t: -1 ... 1 from corner to corner."""

    t: Tensor
    top: Tensor
    upper: Tensor
    lower: Tensor
    bottom: Tensor
    gap: Tensor  # (B, 1) how far it is open in the middle


def _mouth_shape(c: Canvas, faces: Faces) -> _Mouth:
    s = faces.shape
    a = Actions(*(x.mean(1, keepdim=True) for x in faces.actions))
    t = c.x / mouth_width(faces)
    arch = (1 - t.square()).clamp_min(0)
    lift = 0.18 * c.side(faces.actions.corner_pull) + 0.03 * c.side(faces.actions.dimple)
    drop = 0.17 * c.side(faces.actions.corner_drop) + s.rest_corner
    middle = s.mouth_y - 0.015 * a.chin + (drop - lift) * (t.square().clamp(0, 1.2) - 0.25)
    square = (0.3 + a.stretch + a.lip_raise + 0.4 * a.part).clamp(0, 1)
    round_off = arch + (arch.sqrt() - arch) * square
    thin = (1 - 0.75 * a.press - 0.25 * a.corner_pull - 0.2 * a.stretch).clamp_min(0.12)
    raised = 0.09 * c.side(faces.actions.lip_raise)
    upper = middle - round_off * (0.02 * a.jaw + 0.030 * a.part + raised * (0.4 + 0.6 * a.part))
    lower = middle + round_off * (0.30 * a.jaw + 0.055 * a.part)
    bow = 1 - 0.25 * blob(t / 0.3, 0 * t)
    top = upper - s.lip_upper * thin * arch.sqrt() * bow - raised * 0.3 * arch
    bottom = lower + s.lip_lower * thin * arch.sqrt() * (1 + 0.35 * a.chin)
    return _Mouth(t, top, upper, lower, bottom, 0.32 * a.jaw + 0.085 * a.part)


def _mouth(c: Canvas, faces: Faces, albedo: Tensor) -> Tensor:
    m, a, colours = _mouth_shape(c, faces), faces.actions, faces.colours
    there = c.edge((1 - m.t.abs()) * mouth_width(faces)) * c.front
    lips = c.edge(c.y - m.top) * c.edge(m.bottom - c.y) * there
    shine = 1 + 0.22 * blob(m.t / 0.6, (c.y - m.lower - 0.025) / 0.03) - 0.14 * (c.y < m.upper)
    albedo = over(albedo, lips, colours.lips[..., None] * shine[:, None])
    inside = c.edge(c.y - m.upper) * c.edge(m.lower - c.y) * there
    albedo = over(albedo, inside, albedo.new_tensor([0.16, 0.04, 0.05]).expand(len(albedo), 3))
    tongue = blob(m.t / 0.65, (c.y - m.lower) / 0.11) * inside * (m.gap * 5).clamp(0, 1)
    albedo = over(albedo, tongue, albedo.new_tensor([0.62, 0.25, 0.25]).expand(len(albedo), 3))
    albedo = _teeth(c, m, a, albedo, inside)
    seam = c.line(c.y - 0.5 * (m.upper + m.lower), 0.010) * there * (1 - m.gap * 14).clamp(0, 1)
    corners = blob((m.t.abs() - 1) / 0.14, (c.y - m.upper) / 0.035) * 0.5 * c.front
    return over(albedo, (seam * 0.8 + corners).clamp(0, 1), colours.lips * 0.25)


def _teeth(c: Canvas, m: _Mouth, a: Actions, albedo: Tensor, inside: Tensor) -> Tensor:
    shown = (a.part.mean(1, keepdim=True) * 1.4 + 0.25).clamp(0, 1)
    both = (a.stretch.mean(1, keepdim=True) * 1.5).clamp(0, 1) * (m.gap > 0.05)
    fade = (1 - m.t.square()).clamp(0, 1).sqrt()
    above = c.edge(m.upper + 0.075 - c.y) * shown
    below = c.edge(c.y - m.lower + 0.045) * both * shown
    mask = torch.maximum(above, below) * inside * fade
    return over(albedo, mask, albedo.new_tensor([0.93, 0.91, 0.86]).expand(len(albedo), 3))
