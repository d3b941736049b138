"""The colors of a face: eyes, brows, mouth, folds and beard, by position on the skin.

Paint turns with the head, since it is a function of the head's own coordinates. Folds are painted
as shade, which is what they look like at 64 pixels.

Shapes: B faces, P pixels. Coordinates and masks are (B, P), parameters (B, 1).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .actions import Actions
from .brush import blob, edge, over, stroke
from .face3d import Frame, Surface, mouth_width
from .parameters import Faces


class Canvas(NamedTuple):
    """The surface to paint on.

    x, y, z: points of the skin, in head axes.
    wide: |x|.
    right: 0 on the left ... 1 on the right.
    front: 1 on the face, 0 behind.
    sharpness: (B, 1), pixels in a head unit.
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
        """Interpolate the strengths of left and right (B, 2) over the face: (B, P)."""
        return action[:, :1] + (action[:, 1:] - action[:, :1]) * self.right


def paint_face(surface: Surface, frame: Frame) -> Tensor:
    """(B, 3, P): the color of the skin and everything on it, before lighting."""
    x, y, z = surface.point.unbind(1)
    c = Canvas(
        faces=frame.faces,
        x=x,
        y=y,
        z=z,
        wide=x.abs(),
        right=(x / 0.08 + 0.5).clamp(0, 1),
        front=(z / 0.15).clamp(0, 1),
        sharpness=frame.sharpness,
    )
    albedo = frame.faces.colors.skin[..., None] * _shade(c)[:, None]
    for layer in (_flush, _beard, _nostrils, _mouth, _eyes, _brows):
        albedo = layer(c, albedo)
    return albedo


# -------------------------------------------------------------------------------------------- skin


def _shade(c: Canvas) -> Tensor:
    """Folds and hollows: a factor in (0, 1]."""
    s, a = c.faces.shape, c.faces.actions
    below_eye = c.y - s.eye_y
    socket = 0.30 * blob((c.wide - s.eye_x * 0.92) / 0.26, (below_eye + 0.02) / 0.15)
    bag = 0.16 * s.age * blob((c.wide - s.eye_x) / 0.17, (below_eye - 0.12) / 0.05)
    below_lip = s.mouth_y + 0.17 + 0.16 * a.jaw.mean(1, keepdim=True)
    dent = (0.16 + 0.22 * c.side(a.chin)) * blob(c.wide / 0.2, (c.y - below_lip) / 0.05)
    dark = socket + bag + dent + _brow_folds(c) + _cheek_folds(c) + _eye_folds(c)
    return 1 - (dark * c.front).clamp(0, 0.75)


def _brow_folds(c: Canvas) -> Tensor:
    """Waves on the forehead, a frown between the brows, wrinkles over the nose."""
    s, a = c.faces.shape, c.faces.actions
    inner = c.side(a.inner_brow).clamp(0, 1)
    outer = c.side(a.outer_brow).clamp(0, 1)
    rise = inner * (0.45 + 0.55 * outer)
    where = blob(c.wide / 0.5, (c.y + 0.42) / 0.19)
    forehead = _waves(c.y + 0.30, 0.105) * where * (0.34 * rise + 0.14 * s.age)
    where = blob(c.wide / 0.12, (c.y - s.brow_y - 0.03) / 0.17)
    frown = c.line(c.wide - 0.05, 0.016) * where * c.side(a.brow_lower)
    where = blob(c.wide / 0.17, (c.y - 0.05) / 0.16)
    wrinkle = _waves(c.y + 0.2, 0.075) * where * c.side(a.nose_wrinkle)
    return forehead + 0.75 * frown + 0.5 * wrinkle


def _waves(along: Tensor, period: float) -> Tensor:
    """Dark lines across, one per period."""
    return (1 - 3.2 * ((along / period).frac().abs() - 0.5).abs()).clamp(0, 1)


def _cheek_folds(c: Canvas) -> Tensor:
    """The fold from the nose to the corner of the mouth, and the dimple there."""
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
    """Effects of raised cheeks: a fold below the lid, and crow's feet."""
    s = c.faces.shape
    raised = c.side(c.faces.actions.cheek)
    off = c.wide - s.eye_x
    line = c.line(c.y - s.eye_y - 0.105 - 0.5 * off.square(), 0.02)
    fold = line * blob(off / 0.22, (c.y - s.eye_y - 0.1) / 0.2)
    feet = blob((off - 0.24) / 0.07, (c.y - s.eye_y) / 0.09)
    return raised * (0.35 * fold + 0.22 * feet)


def _flush(c: Canvas, albedo: Tensor) -> Tensor:
    """Redden cheeks and nose."""
    s = c.faces.shape
    red = albedo * albedo.new_tensor([1.05, 0.80, 0.80])[:, None]
    cheeks = blob((c.wide - 0.40) / 0.28, (c.y - 0.30) / 0.24) * (0.35 + 0.65 * s.make_up)
    nose = blob(c.wide / 0.16, (c.y - s.nose_length + 0.05) / 0.16) * 0.45
    return over(albedo, (cheeks + nose) * c.front, red)


def _beard(c: Canvas, albedo: Tensor) -> Tensor:
    """Paint beard, moustache and stubble."""
    s = c.faces.shape
    below = ((c.y - 0.50 - 0.25 * (0.45 - c.wide).clamp_min(0)) / 0.14).clamp(0, 1)
    low = below * ((0.75 - c.wide) / 0.1).clamp(0, 1)
    lip = blob(c.wide / 0.34, (c.y - s.mouth_y + 0.125) / 0.085).sqrt()
    grown = (low * s.beard).maximum(lip * s.moustache) * 0.88
    shadow = low.maximum(lip) * s.stubble * 0.45
    mask = grown.maximum(shadow) * (c.z / 0.2 + 1).clamp(0, 1)
    return over(albedo, mask, c.faces.colors.hair * 0.85)


def _nostrils(c: Canvas, albedo: Tensor) -> Tensor:
    """Paint the nostrils, and the shade beside and below the nose."""
    s = c.faces.shape
    below = c.y - s.nose_length
    hole = blob((c.wide - 0.062 * s.nose_width) / 0.052, (below - 0.045) / 0.034) * 0.8
    wing = blob((c.wide - 0.165 * s.nose_width) / 0.035, below / 0.085) * 0.30
    under = blob(c.wide / 0.16, (below - 0.075) / 0.05) * 0.30
    mask = (hole + wing + under).clamp(0, 1) * c.front
    return over(albedo, mask, c.faces.colors.skin * 0.22)


# ---------------------------------------------------------------------------------- eyes and brows


def _lids(c: Canvas, u: Tensor) -> tuple[Tensor, Tensor]:
    """Heights of the upper and the lower lid relative to the middle line of the eye.

    u: -1 at the inner corner ... 1 at the outer corner.
    """
    s, a = c.faces.shape, c.faces.actions
    wide = c.side(a.lid_widen)
    tight = c.side(a.lid_tighten)
    cheek = c.side(a.cheek)
    arch = (1 - u.square()).clamp_min(0)
    upper = (s.eye_height * (1 + 0.75 * wide - 0.5 * tight - 0.15 * cheek)).clamp_min(0.012)
    lower = (s.eye_height * (0.62 + 0.3 * wide - 0.3 * tight - 0.5 * cheek)).clamp_min(0.005)
    sad = c.side(a.inner_brow) * (1 - c.side(a.outer_brow)).clamp_min(0)
    droop = 0.35 * s.eye_height * sad  # of the outer corner
    top = -upper * arch.pow(0.75) + droop * u.clamp(-1, 1) * arch
    return top, lower * arch


def _eyes(c: Canvas, albedo: Tensor) -> Tensor:
    """Paint the whites, the irises, the crease above the lid, lashes and rims."""
    s = c.faces.shape
    off = c.wide - s.eye_x
    u = off / s.eye_width
    v = c.y - s.eye_y + s.eye_slant * off
    upper, lower = _lids(c, u)
    there = c.edge((1 - u.abs()) * s.eye_width) * c.front
    opening = c.edge(v - upper) * c.edge(lower - v) * there
    shade = 0.93 - 0.30 * blob((v - upper) / 0.05)  # by the upper lid
    white = albedo.new_tensor([1.0, 0.98, 0.96])[:, None] * shade[:, None]
    albedo = _iris(c, over(albedo, opening, white), opening)
    crease = c.line(v - 1.15 * upper + 0.05, 0.008) * there * 0.45
    albedo = over(albedo, crease, c.faces.colors.skin * 0.45)
    lash = c.line(v - upper, 0.014 + 0.016 * s.make_up) * (0.7 + 0.3 * s.make_up)
    rim = c.line(v - lower, 0.006) * (0.35 + 0.4 * s.make_up)
    mask = ((lash + rim) * there).clamp(0, 1)
    return over(albedo, mask, c.faces.colors.hair * 0.18 + 0.02)


def _iris(c: Canvas, albedo: Tensor, opening: Tensor) -> Tensor:
    """Paint iris, its rim, pupil and highlight, within the opening of the lids."""
    s = c.faces.shape
    shot = c.faces.shot
    color = c.faces.colors.iris
    dx = c.x - (2 * (c.x > 0) - 1) * s.eye_x - shot.gaze[:, :1]
    dy = c.y - s.eye_y + 0.01 - shot.gaze[:, 1:]
    far = (dx.square() + dy.square() + 1e-6).sqrt()
    albedo = over(albedo, c.edge(s.iris - far) * opening, color)
    albedo = over(albedo, c.line(far - s.iris, 0.008) * opening * 0.6, color * 0.3)
    albedo = over(albedo, c.edge(0.42 * s.iris - far) * opening, color * 0.08)
    spark = blob((dx + 0.025) / 0.028, (dy + 0.028) / 0.028) * opening
    return over(albedo, spark, albedo.new_ones(len(albedo), 3))


def _brows(c: Canvas, albedo: Tensor) -> Tensor:
    """Paint the brows: a stroke along a quadratic curve from the inner to the outer end."""
    s, a = c.faces.shape, c.faces.actions
    inner = c.side(a.inner_brow)
    outer = c.side(a.outer_brow)
    lower = c.side(a.brow_lower)
    start, end = 0.125 - 0.045 * lower, 0.50
    t = (c.wide - start) / (end - start)
    at = t.clamp(0, 1)
    # The three control heights of the curve.
    first = 0.015 - 0.16 * inner + 0.14 * lower
    middle = -0.04 - 2 * s.brow_arch - 0.07 * inner - 0.15 * outer + 0.07 * lower
    last = 0.035 + 0.03 * inner - 0.12 * outer - 0.03 * lower
    curve = (1 - at).square() * first + 2 * at * (1 - at) * middle + at.square() * last
    thick = s.brow_thickness * (0.65 + 0.9 * at - 1.25 * at.square()) * (1 + 0.2 * lower)
    across = c.edge(thick - (c.y - s.brow_y - curve).abs())
    along = c.edge((0.5 - (t - 0.5).abs()) * (end - start))
    mask = across * along
    return over(albedo, mask * s.brow_alpha * c.front, c.faces.colors.hair * 0.6)


# ------------------------------------------------------------------------------------------- mouth


class _Mouth(NamedTuple):
    """The lips.

    t: (B, P), -1 ... 1 from corner to corner.
    top, upper, lower, bottom: (B, P), heights of the edges of both lips.
    gap: (B, 1), between the lips in the middle.
    """

    t: Tensor
    top: Tensor
    upper: Tensor
    lower: Tensor
    bottom: Tensor
    gap: Tensor


def _mouth_shape(c: Canvas) -> _Mouth:
    s = c.faces.shape
    sides = c.faces.actions
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
    thin = (1 - 0.75 * a.press - 0.25 * a.corner_pull - 0.2 * a.stretch).clamp_min(0.12)
    thin = thin * round_arch
    top = upper - s.lip_upper * thin * (1 - 0.25 * blob(t / 0.3)) - 0.3 * raised * arch
    bottom = lower + s.lip_lower * thin * (1 + 0.35 * a.chin)
    return _Mouth(t, top, upper, lower, bottom, 0.32 * a.jaw + 0.085 * a.part)


def _mouth(c: Canvas, albedo: Tensor) -> Tensor:
    """Paint lips, inside, tongue, teeth, the seam of a closed mouth, and the corners."""
    m = _mouth_shape(c)
    colors = c.faces.colors
    there = c.edge((1 - m.t.abs()) * mouth_width(c.faces)) * c.front
    lips = c.edge(c.y - m.top) * c.edge(m.bottom - c.y) * there
    gloss = blob(m.t / 0.6, (c.y - m.lower - 0.025) / 0.03)
    shine = 0.86 + 0.14 * c.edge(c.y - m.upper) + 0.22 * gloss
    albedo = over(albedo, lips, colors.lips[..., None] * shine[:, None])
    inside = c.edge(c.y - m.upper) * c.edge(m.lower - c.y) * there
    albedo = over(albedo, inside, albedo.new_tensor([[0.16, 0.04, 0.05]]))
    tongue = blob(m.t / 0.65, (c.y - m.lower) / 0.11) * inside
    tongue = tongue * (m.gap * 5).clamp(0, 1)
    albedo = over(albedo, tongue, albedo.new_tensor([[0.62, 0.25, 0.25]]))
    albedo = over(albedo, _teeth(c, m) * inside, albedo.new_tensor([[0.93, 0.91, 0.86]]))
    seam = c.line(c.y - 0.5 * (m.upper + m.lower), 0.010) * there
    seam = seam * (1 - m.gap * 14).clamp(0, 1)
    corners = blob((m.t.abs() - 0.98) / 0.13, (c.y - m.upper) / 0.032) * 0.35 * c.front
    return over(albedo, (seam * 0.8 + corners).clamp(0, 1), colors.lips * 0.25)


def _teeth(c: Canvas, m: _Mouth) -> Tensor:
    """(B, P): the upper teeth, and the lower ones if the lips are stretched."""
    a = c.faces.actions
    shown = (a.part.mean(1, keepdim=True) * 1.4 + 0.25).clamp(0, 1)
    stretched = (a.stretch.mean(1, keepdim=True) * 1.5).clamp(0, 1)
    lower_shown = stretched * (m.gap * 25 - 0.75).clamp(0, 1)
    upper = c.edge(m.upper + 0.075 - c.y)
    lower = c.edge(c.y - m.lower + 0.045) * lower_shown
    arch = (1 - m.t.square()).clamp(0, 1).sqrt()
    return upper.maximum(lower) * shown * arch
