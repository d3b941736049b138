"""The colors of a face: eyes, brows, mouth, folds, beard, as functions of the skin's point in head axes.

What is painted turns with the head, since it is a function of the head's own coordinates. Folds are painted as shade:
at 64 pixels that is what one sees of them. Shapes: B faces, P pixels; coordinates and masks are (B, P), parameters (B,
1).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .actions import Actions
from .brush import blob, edge, over, stroke
from .face3d import Frame, Surface, mouth_width
from .parameters import Faces


class Canvas(NamedTuple):
    """Where we paint. x, y, z: the skin's points; wide = |x|; right: 0 left ... 1 right; front: 1 on the face, 0
    behind.
    """

    faces: Faces
    x: Tensor
    y: Tensor
    z: Tensor
    wide: Tensor
    right: Tensor
    front: Tensor
    sharpness: Tensor

    def edge(self, distance: Tensor) -> Tensor:
        return edge(distance, self.sharpness)

    def line(self, distance: Tensor, width: Tensor | float) -> Tensor:
        return stroke(distance, width, self.sharpness)

    def side(self, action: Tensor) -> Tensor:
        """Strengths of the left and the right side (B, 2) -> (B, P)."""
        return action[:, :1] + (action[:, 1:] - action[:, :1]) * self.right


def paint_face(surface: Surface, frame: Frame) -> Tensor:
    """The color of the skin with everything on it, before the light, (B, 3, P)."""
    x, y, z = surface.point.unbind(1)
    c = Canvas(
        frame.faces,
        x,
        y,
        z,
        x.abs(),
        (x / 0.08 + 0.5).clamp(0, 1),
        (z / 0.15).clamp(0, 1),
        frame.sharpness,
    )
    albedo = frame.faces.colors.skin[..., None] * _shade(c)[:, None]
    for layer in (_flush, _beard, _nostrils, _mouth, _eyes, _brows):
        albedo = layer(c, albedo)
    return albedo


# ------------------------------------------------------------------------------------------------ skin


def _shade(c: Canvas) -> Tensor:
    """Folds and hollows: a factor in (0, 1]."""
    s, a = c.faces.shape, c.faces.actions
    socket = 0.30 * blob((c.wide - s.eye_x * 0.92) / 0.26, (c.y - s.eye_y + 0.02) / 0.15)
    bag = 0.16 * s.age * blob((c.wide - s.eye_x) / 0.17, (c.y - s.eye_y - 0.12) / 0.05)
    below_lip = s.mouth_y + 0.17 + 0.16 * a.jaw.mean(1, keepdim=True)
    dent = (0.16 + 0.22 * c.side(a.chin)) * blob(c.wide / 0.2, (c.y - below_lip) / 0.05)
    dark = socket + bag + dent + _brow_folds(c) + _cheek_folds(c) + _eye_folds(c)
    return 1 - (dark * c.front).clamp(0, 0.75)


def _brow_folds(c: Canvas) -> Tensor:
    """Waves on the forehead, a frown between the brows, wrinkles over the nose."""
    s, a = c.faces.shape, c.faces.actions
    rise = c.side(a.inner_brow).clamp(0, 1) * (0.45 + 0.55 * c.side(a.outer_brow).clamp(0, 1))
    forehead = (
        _waves(c.y + 0.30, 0.105)
        * blob(c.wide / 0.5, (c.y + 0.42) / 0.19)
        * (0.34 * rise + 0.14 * s.age)
    )
    frown = (
        c.line(c.wide - 0.05, 0.016)
        * blob(c.wide / 0.12, (c.y - s.brow_y - 0.03) / 0.17)
        * c.side(a.brow_lower)
    )
    wrinkle = (
        _waves(c.y + 0.2, 0.075) * blob(c.wide / 0.17, (c.y - 0.05) / 0.16) * c.side(a.nose_wrinkle)
    )
    return forehead + 0.75 * frown + 0.5 * wrinkle


def _waves(along: Tensor, period: float) -> Tensor:
    """Dark lines across, one a period."""
    return (1 - 3.2 * ((along / period).frac().abs() - 0.5).abs()).clamp(0, 1)


def _cheek_folds(c: Canvas) -> Tensor:
    """The fold from the nose to the mouth's corner, and the corner's dimple."""
    s, a = c.faces.shape, c.faces.actions
    pull = c.side(a.corner_pull)
    reach = mouth_width(c.faces) + 0.075
    down = ((c.y - s.nose_length + 0.07) / (s.mouth_y - s.nose_length + 0.09)).clamp(0, 1)
    place = 0.155 * s.nose_width + (reach - 0.155 * s.nose_width) * down.sqrt()
    strength = (
        0.16 * s.age + 0.40 * pull + 0.34 * c.side(a.lip_raise) + 0.26 * c.side(a.nose_wrinkle)
    )
    fold = c.line(c.wide - place, 0.022) * (1 - (2 * down - 1).square()) * strength
    corner = blob((c.wide - reach + 0.01) / 0.075, (c.y - s.mouth_y + 0.08 * pull) / 0.09)
    return fold + corner * (0.34 * c.side(a.dimple) + 0.10 * pull)


def _eye_folds(c: Canvas) -> Tensor:
    """What raised cheeks do: a fold below the lid, and crow's feet."""
    s, raised = c.faces.shape, c.side(c.faces.actions.cheek)
    off = c.wide - s.eye_x
    fold = c.line(c.y - s.eye_y - 0.105 - 0.5 * off.square(), 0.02) * blob(
        off / 0.22, (c.y - s.eye_y - 0.1) / 0.2
    )
    feet = blob((off - 0.24) / 0.07, (c.y - s.eye_y) / 0.09)
    return raised * (0.35 * fold + 0.22 * feet)


def _flush(c: Canvas, albedo: Tensor) -> Tensor:
    """Blood in cheeks and nose, or rouge."""
    s, red = c.faces.shape, albedo * albedo.new_tensor([1.05, 0.80, 0.80])[:, None]
    cheeks = blob((c.wide - 0.40) / 0.28, (c.y - 0.30) / 0.24) * (0.35 + 0.65 * s.make_up)
    nose = blob(c.wide / 0.16, (c.y - s.nose_length + 0.05) / 0.16) * 0.45
    return over(albedo, (cheeks + nose) * c.front, red)


def _beard(c: Canvas, albedo: Tensor) -> Tensor:
    s = c.faces.shape
    low = ((c.y - 0.50 - 0.25 * (0.45 - c.wide).clamp_min(0)) / 0.14).clamp(0, 1) * (
        (0.75 - c.wide) / 0.1
    ).clamp(0, 1)
    lip = blob(c.wide / 0.34, (c.y - s.mouth_y + 0.125) / 0.085).sqrt()
    grown = (low * s.beard).maximum(lip * s.moustache) * 0.88
    shadow = low.maximum(lip) * s.stubble * 0.45
    return over(
        albedo, grown.maximum(shadow) * (c.z / 0.2 + 1).clamp(0, 1), c.faces.colors.hair * 0.85
    )


def _nostrils(c: Canvas, albedo: Tensor) -> Tensor:
    s, below = c.faces.shape, c.y - c.faces.shape.nose_length
    hole = blob((c.wide - 0.062 * s.nose_width) / 0.052, (below - 0.045) / 0.034) * 0.8
    wing = blob((c.wide - 0.165 * s.nose_width) / 0.035, below / 0.085) * 0.30
    under = blob(c.wide / 0.16, (below - 0.075) / 0.05) * 0.30
    return over(albedo, (hole + wing + under).clamp(0, 1) * c.front, c.faces.colors.skin * 0.22)


# ------------------------------------------------------------------------------------------------ eyes and brows


def _lids(c: Canvas, u: Tensor) -> tuple[Tensor, Tensor]:
    """Heights of the upper and the lower lid over the eye's middle line; u: -1 inner ... 1 outer corner."""
    s, a = c.faces.shape, c.faces.actions
    wide, tight, cheek = c.side(a.lid_widen), c.side(a.lid_tighten), c.side(a.cheek)
    arch = (1 - u.square()).clamp_min(0)
    upper = (s.eye_height * (1 + 0.75 * wide - 0.5 * tight - 0.15 * cheek)).clamp_min(0.012)
    lower = (s.eye_height * (0.62 + 0.3 * wide - 0.3 * tight - 0.5 * cheek)).clamp_min(0.005)
    sad = c.side(a.inner_brow) * (1 - c.side(a.outer_brow)).clamp_min(0)
    hangs = 0.35 * s.eye_height * sad  # on the outer side
    return -upper * arch.pow(0.75) + hangs * u.clamp(-1, 1) * arch, lower * arch


def _eyes(c: Canvas, albedo: Tensor) -> Tensor:
    s, off = c.faces.shape, c.wide - c.faces.shape.eye_x
    u, v = off / s.eye_width, c.y - s.eye_y + s.eye_slant * off
    upper, lower = _lids(c, u)
    there = c.edge((1 - u.abs()) * s.eye_width) * c.front
    opening = c.edge(v - upper) * c.edge(lower - v) * there
    white = (
        albedo.new_tensor([1.0, 0.98, 0.96])[:, None]
        * (0.93 - 0.30 * blob((v - upper) / 0.05))[:, None]
    )
    albedo = _iris(c, over(albedo, opening, white), opening)
    crease = c.line(v - 1.15 * upper + 0.05, 0.008) * there * 0.45
    albedo = over(albedo, crease, c.faces.colors.skin * 0.45)
    lash = c.line(v - upper, 0.014 + 0.016 * s.make_up) * (0.7 + 0.3 * s.make_up)
    rim = c.line(v - lower, 0.006) * (0.35 + 0.4 * s.make_up)
    return over(albedo, ((lash + rim) * there).clamp(0, 1), c.faces.colors.hair * 0.18 + 0.02)


def _iris(c: Canvas, albedo: Tensor, opening: Tensor) -> Tensor:
    s, shot, color = c.faces.shape, c.faces.shot, c.faces.colors.iris
    dx = c.x - (2 * (c.x > 0) - 1) * s.eye_x - shot.gaze[:, :1]
    dy = c.y - s.eye_y + 0.01 - shot.gaze[:, 1:]
    far = (dx.square() + dy.square() + 1e-6).sqrt()
    albedo = over(albedo, c.edge(s.iris - far) * opening, color)
    albedo = over(albedo, c.line(far - s.iris, 0.008) * opening * 0.6, color * 0.3)
    albedo = over(albedo, c.edge(0.42 * s.iris - far) * opening, color * 0.08)
    spark = blob((dx + 0.025) / 0.028, (dy + 0.028) / 0.028) * opening
    return over(albedo, spark, albedo.new_ones(len(albedo), 3))


def _brows(c: Canvas, albedo: Tensor) -> Tensor:
    s, a = c.faces.shape, c.faces.actions
    inner, outer, lower = c.side(a.inner_brow), c.side(a.outer_brow), c.side(a.brow_lower)
    start, end = 0.125 - 0.045 * lower, 0.50
    t = (c.wide - start) / (end - start)
    at = t.clamp(0, 1)
    first = 0.015 - 0.16 * inner + 0.14 * lower  # the three control heights of a quadratic curve
    middle = -0.04 - 2 * s.brow_arch - 0.07 * inner - 0.15 * outer + 0.07 * lower
    last = 0.035 + 0.03 * inner - 0.12 * outer - 0.03 * lower
    curve = (1 - at).square() * first + 2 * at * (1 - at) * middle + at.square() * last
    thick = s.brow_thickness * (0.65 + 0.9 * at - 1.25 * at.square()) * (1 + 0.2 * lower)
    mask = c.edge(thick - (c.y - s.brow_y - curve).abs()) * c.edge(
        (0.5 - (t - 0.5).abs()) * (end - start)
    )
    return over(albedo, mask * s.brow_alpha * c.front, c.faces.colors.hair * 0.6)


# ------------------------------------------------------------------------------------------------ mouth


class _Mouth(NamedTuple):
    """Heights of the lips' edges, (B, P), from top to bottom; t: -1 ... 1 from corner to corner; gap: (B, 1) in the
    middle.
    """

    t: Tensor
    top: Tensor
    upper: Tensor
    lower: Tensor
    bottom: Tensor
    gap: Tensor


def _mouth_shape(c: Canvas) -> _Mouth:
    s, sides = c.faces.shape, c.faces.actions
    a = Actions(*(both.mean(1, keepdim=True) for both in sides))
    t = c.x / mouth_width(c.faces)
    arch = (1 - t.square()).clamp_min(0)
    round_arch = arch.sqrt()
    rise = 0.18 * c.side(sides.corner_pull) + 0.03 * c.side(sides.dimple)
    corners = 0.17 * c.side(sides.corner_drop) + s.rest_corner - rise
    middle = s.mouth_y - 0.015 * a.chin + corners * (t.square().clamp(0, 1.2) - 0.25)
    square = (0.3 + a.stretch + a.lip_raise + 0.4 * a.part).clamp(0, 1)
    opened = arch + (round_arch - arch) * square
    raised = 0.09 * c.side(sides.lip_raise)
    upper = middle - opened * (0.02 * a.jaw + 0.030 * a.part + raised * (0.4 + 0.6 * a.part))
    lower = middle + opened * (0.30 * a.jaw + 0.055 * a.part)
    thin = (1 - 0.75 * a.press - 0.25 * a.corner_pull - 0.2 * a.stretch).clamp_min(
        0.12
    ) * round_arch
    top = upper - s.lip_upper * thin * (1 - 0.25 * blob(t / 0.3)) - 0.3 * raised * arch
    bottom = lower + s.lip_lower * thin * (1 + 0.35 * a.chin)
    return _Mouth(t, top, upper, lower, bottom, 0.32 * a.jaw + 0.085 * a.part)


def _mouth(c: Canvas, albedo: Tensor) -> Tensor:
    m, colors = _mouth_shape(c), c.faces.colors
    there = c.edge((1 - m.t.abs()) * mouth_width(c.faces)) * c.front
    lips = c.edge(c.y - m.top) * c.edge(m.bottom - c.y) * there
    shine = (
        0.86 + 0.14 * c.edge(c.y - m.upper) + 0.22 * blob(m.t / 0.6, (c.y - m.lower - 0.025) / 0.03)
    )
    albedo = over(albedo, lips, colors.lips[..., None] * shine[:, None])
    inside = c.edge(c.y - m.upper) * c.edge(m.lower - c.y) * there
    albedo = over(albedo, inside, albedo.new_tensor([[0.16, 0.04, 0.05]]))
    tongue = blob(m.t / 0.65, (c.y - m.lower) / 0.11) * inside * (m.gap * 5).clamp(0, 1)
    albedo = over(albedo, tongue, albedo.new_tensor([[0.62, 0.25, 0.25]]))
    albedo = over(albedo, _teeth(c, m) * inside, albedo.new_tensor([[0.93, 0.91, 0.86]]))
    seam = c.line(c.y - 0.5 * (m.upper + m.lower), 0.010) * there * (1 - m.gap * 14).clamp(0, 1)
    corners = blob((m.t.abs() - 0.98) / 0.13, (c.y - m.upper) / 0.032) * 0.35 * c.front
    return over(albedo, (seam * 0.8 + corners).clamp(0, 1), colors.lips * 0.25)


def _teeth(c: Canvas, m: _Mouth) -> Tensor:
    """A row above; a row below too where the lips are drawn wide."""
    a = c.faces.actions
    shown = (a.part.mean(1, keepdim=True) * 1.4 + 0.25).clamp(0, 1)
    lower_row = (a.stretch.mean(1, keepdim=True) * 1.5).clamp(0, 1) * (m.gap * 25 - 0.75).clamp(
        0, 1
    )
    rows = c.edge(m.upper + 0.075 - c.y).maximum(c.edge(c.y - m.lower + 0.045) * lower_row)
    return rows * shown * (1 - m.t.square()).clamp(0, 1).sqrt()
