"""Parameters of faces: identity, expression, colors, and how the image was taken.

Lengths are in head units, half the height of a head. Head axes, for a frontal face: x to the
image's right, y down, z toward the viewer; (0, 0, 0) is the center of the head. Angles are in
degrees, colors RGB in [0, 1]. Gender shifts distributions that overlap, so no single parameter
determines it.

The purposes of draws ("iris colour") are part of the data: another spelling gives other faces.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..emotions import Emotion
from .actions import Actions, draw_actions
from .draws import Draws, hashed

# Colors along a line: a draw takes a point between two neighbors.
_SKIN = (
    (0.36, 0.23, 0.17),
    (0.47, 0.31, 0.22),
    (0.68, 0.48, 0.36),
    (0.84, 0.64, 0.51),
    (0.95, 0.79, 0.69),
)
_HAIR = (
    (0.05, 0.04, 0.04),
    (0.17, 0.10, 0.07),
    (0.36, 0.22, 0.12),
    (0.62, 0.44, 0.22),
    (0.60, 0.59, 0.58),
    (0.46, 0.19, 0.10),
)
_IRIS = (
    (0.16, 0.09, 0.05),
    (0.30, 0.18, 0.09),
    (0.28, 0.36, 0.22),
    (0.30, 0.46, 0.60),
    (0.40, 0.45, 0.48),
)


class Shape(NamedTuple):
    """Identity: (B, 1) each."""

    width: Tensor  # of the whole head, a factor
    jaw_width: Tensor
    chin: Tensor  # length
    cheek: Tensor
    ear: Tensor
    eye_x: Tensor
    eye_y: Tensor
    eye_width: Tensor
    eye_height: Tensor
    eye_slant: Tensor
    iris: Tensor
    brow_y: Tensor
    brow_thickness: Tensor
    brow_arch: Tensor
    brow_alpha: Tensor
    nose_width: Tensor
    nose_length: Tensor
    nose_depth: Tensor
    mouth_y: Tensor
    mouth_width: Tensor
    lip_upper: Tensor
    lip_lower: Tensor
    rest_corner: Tensor  # how far the mouth's corners hang at rest
    age: Tensor  # 0 smooth ... 1 wrinkled
    hair_line: Tensor
    hair_volume: Tensor
    hair_length: Tensor  # 0 short ... 1 on the shoulders
    hair_round: Tensor  # how far the hair line comes down at the temples
    curl: Tensor
    fringe: Tensor
    parting: Tensor
    beard: Tensor
    stubble: Tensor
    moustache: Tensor
    make_up: Tensor


class Colors(NamedTuple):
    """(B, 3) each."""

    skin: Tensor
    hair: Tensor
    iris: Tensor
    lips: Tensor
    clothes: Tensor
    back_one: Tensor
    back_two: Tensor
    light: Tensor
    frame: Tensor  # of glasses
    cloth: Tensor  # of a scarf, a mask, a hat
    thing: Tensor  # something in front of the face


class Shot(NamedTuple):
    """Camera, light, and what covers the face."""

    gaze: Tensor  # (B, 2) where the eyes look, in head units
    center: Tensor  # (B, 2) of the head, as a share of the image size
    scale: Tensor  # (B, 1) a head unit as a share of the image size
    light: Tensor  # (B, 3) toward the light, view axes
    ambient: Tensor  # (B, 1)
    exposure: Tensor  # (B, 1)
    contrast: Tensor  # (B, 1)
    gray: Tensor  # (B, 1) 1 is a black-and-white image
    blur: Tensor  # (B, 1) 0 ... 1
    noise: Tensor  # (B, 1) standard deviation
    waves: Tensor  # (B, 9) three waves of the background: fx, fy, phase
    stripe: Tensor  # (B, 4) a band in the background: direction, offset, width, strength
    glasses: Tensor  # (B, 1) 0 or 1
    dark_glasses: Tensor
    scarf: Tensor  # over mouth and nose
    hat: Tensor
    thing: Tensor  # (B, 5) a bar in front: present, x, y, angle (half turns), half width


class Faces(NamedTuple):
    """All parameters of B faces."""

    key: Tensor  # (B,) int64, bits for the pixel noise
    emotion: Tensor  # (B,) int64, in the order of `Emotion`
    female: Tensor  # (B, 1) 0.0 or 1.0
    pose_deg: Tensor  # (B, 3) yaw, pitch, roll
    actions: Actions
    shape: Shape
    colors: Colors
    shot: Shot

    def select(self, start: int, stop: int) -> Faces:
        """Return some of the faces."""
        return tree_map(lambda part: part[start:stop], self)


def draw_faces(indices: Tensor, seed: int) -> Faces:
    """Draw the faces of these indices, (B,) int64 >= 0.

    Each aligned run of 16 faces has each pair of emotion and gender once.
    """
    draws = Draws(indices, seed)
    card = draws.dealt("label", 2 * len(Emotion))
    emotion = card % len(Emotion)
    female = torch.div(card, len(Emotion), rounding_mode="floor").float()[:, None]
    return Faces(
        key=hashed(indices, seed, "noise")[:, 0],
        emotion=emotion,
        female=female,
        pose_deg=_draw_pose(draws),
        actions=draw_actions(draws, emotion),
        shape=_draw_shape(draws, female),
        colors=_draw_colors(draws, female),
        shot=_draw_shot(draws),
    )


def _draw_pose(draws: Draws) -> Tensor:
    """(B, 3) yaw, pitch, roll in degrees, up to 60, 35 and 35."""
    # The second line concentrates them further: most poses are moderate.
    moderate = draws.bell("pose", 0.0, 1.0, 3)
    moderate = moderate * (0.42 + 0.58 * moderate.abs())
    return moderate * torch.tensor([60.0, 35.0, 35.0], device=moderate.device)


def _draw_shape(d: Draws, female: Tensor) -> Shape:
    return Shape(**_draw_features(d, 1 - 2 * female), **_draw_hair(d, female, 1 - female))


def _draw_features(d: Draws, either: Tensor) -> dict[str, Tensor]:
    """Draw the features of the face. either: (B, 1), +1 male, -1 female."""
    return {
        "width": d.bell("width", 1.0, 0.10) + 0.015 * either,
        "jaw_width": d.bell("jaw width", 1.0, 0.16) + 0.06 * either,
        "chin": d.bell("chin", 1.0, 0.12) + 0.035 * either,
        "cheek": d.bell("cheek", 1.0, 0.25) - 0.04 * either,
        "eye_x": d.bell("eye x", 0.315, 0.03),
        "eye_y": d.bell("eye y", 0.0, 0.03),
        "eye_width": d.bell("eye width", 0.178, 0.02) - 0.005 * either,
        "eye_height": d.bell("eye height", 0.082, 0.016) - 0.006 * either,
        "eye_slant": d.bell("eye slant", 0.04, 0.12),
        "iris": d.bell("iris size", 0.073, 0.008),
        "brow_y": d.bell("brow y", -0.185, 0.035) + 0.02 * either,
        "brow_thickness": d.bell("brow thickness", 0.037, 0.014) + 0.007 * either,
        "brow_arch": d.bell("brow arch", 0.03, 0.03) - 0.012 * either,
        "brow_alpha": d.uniform("brow alpha", 0.7, 0.95),
        "nose_width": d.bell("nose width", 1.0, 0.3) + 0.05 * either,
        "nose_length": d.bell("nose length", 0.40, 0.05) + 0.008 * either,
        "nose_depth": d.bell("nose depth", 1.0, 0.3) + 0.05 * either,
        "mouth_y": d.bell("mouth y", 0.65, 0.03),
        "mouth_width": d.bell("mouth width", 0.27, 0.035) + 0.006 * either,
        "lip_upper": d.bell("upper lip", 0.045, 0.02) - 0.006 * either,
        "lip_lower": d.bell("lower lip", 0.062, 0.024) - 0.008 * either,
        "rest_corner": d.bell("rest corner", 0.0, 0.02),
    }


def _draw_hair(d: Draws, female: Tensor, male: Tensor) -> dict[str, Tensor]:
    """Draw hair, beard, ears, age and make-up. female, male: (B, 1), 0.0 or 1.0."""
    # Long hair may hide the ears.
    long_hair = d.chance("long hair", 0.10 * male + 0.72 * female)
    tucked = long_hair * d.chance("ears under the hair", 0.75)
    bald = male * d.chance("bald", 0.14)
    beard = male * d.chance("beard", 0.22)
    stubble = male * d.chance("stubble", 0.5) * d.uniform("stubble how", 0.1, 0.5)
    volume = d.bell("hair volume", 1.0, 0.6) - 0.15 * (male - female)
    fringe = d.chance("fringe", 0.18 * male + 0.30 * female)
    return {
        "ear": d.bell("ear", 1.0, 0.25) * (1 - 0.75 * tucked),
        "age": d.uniform("age") ** 2,
        "hair_line": d.bell("hair line", -0.63, 0.12) - bald * 0.9,
        "hair_volume": volume * (1 - 0.8 * bald),
        "hair_length": long_hair * d.uniform("hair length", 0.45, 1.0),
        "hair_round": d.uniform("hair round", 0.1, 1.5) * (1 - bald),
        "curl": d.chance("curly", 0.35) * d.uniform("curls", 0.4, 1.0),
        "fringe": fringe * d.uniform("fringe length", 0.08, 0.28),
        "parting": d.bell("parting", 0.0, 0.5),
        "beard": beard,
        "stubble": stubble.maximum(beard * 0.6),
        "moustache": (male * d.chance("moustache", 0.12)).maximum(beard),
        "make_up": female * d.chance("make-up", 0.55) * d.uniform("make-up how", 0.4, 1.0),
    }


def _along(anchors: tuple[tuple[float, float, float], ...], at: Tensor) -> Tensor:
    """(B, 3): the color on the line through the anchors at the position `at` (B, 1) in [0, 1]."""
    line = torch.tensor(anchors, device=at.device)
    position = at[:, 0] * (len(anchors) - 1)
    low = position.long().clamp(0, len(anchors) - 2)
    share = (position - low)[:, None]
    return line[low] * (1 - share) + line[low + 1] * share


def _muted(d: Draws, purpose: str) -> Tensor:
    """(B, 3): a color of any lightness, rarely a saturated one."""
    lightness = d.uniform(purpose, 0.05, 0.95)
    return (lightness + d.bell(purpose + " tint", 0.0, 0.45, 3)).clamp(0, 1)


def _draw_colors(d: Draws, female: Tensor) -> Colors:
    skin = _along(_SKIN, d.uniform("skin")) + d.bell("skin tint", 0.0, 0.05, 3)
    skin = skin.clamp(0.08, 1)
    hair = _along(_HAIR, d.uniform("hair")) + d.bell("hair tint", 0.0, 0.04, 3)

    natural = skin * torch.tensor([0.86, 0.58, 0.58], device=skin.device)
    red = torch.tensor([0.72, 0.12, 0.20], device=skin.device)
    lipstick = red + d.bell("lipstick", 0.0, 0.15, 3)
    paint = female * d.chance("wears lipstick", 0.45) * d.uniform("how much lipstick", 0.3, 0.9)
    return Colors(
        skin=skin,
        hair=hair.clamp(0.02, 1),
        iris=_along(_IRIS, d.uniform("iris colour")),
        lips=(natural * (1 - paint) + lipstick * paint).clamp(0.05, 1),
        clothes=_muted(d, "clothes"),
        back_one=_muted(d, "back one"),
        back_two=_muted(d, "back two"),
        light=1 + d.bell("light colour", 0.0, 0.16, 3),
        frame=d.uniform("frame colour", 0.0, 0.35, 3),
        cloth=d.uniform("cloth colour", 0.05, 0.9, 3),
        thing=d.uniform("thing colour", 0.05, 0.9, 3),
    )


def _draw_shot(d: Draws) -> Shot:
    # One draw for all that covers the face, so that only one thing does.
    wears = d.uniform("wears")
    has_thing = ((wears >= 0.21) & (wears < 0.28)).float()

    sideways = d.bell("light x", 0.0, 1.3)
    upward = d.bell("light y", -0.45, 0.9)
    light = torch.cat([sideways, upward, torch.ones_like(sideways)], 1)
    upward_shift = torch.tensor([0.0, 0.02], device=wears.device)
    center = 0.5 + d.bell("centre", 0.0, 0.05, 2) - upward_shift
    return Shot(
        gaze=d.bell("gaze", 0.0, 0.05, 2) * torch.tensor([1.0, 0.4], device=wears.device),
        center=center,
        scale=d.bell("scale", 0.455, 0.06),
        light=light / light.norm(dim=1, keepdim=True),
        ambient=d.uniform("ambient", 0.35, 0.65),
        exposure=d.bell("exposure", 1.05, 0.28),
        contrast=d.bell("contrast", 1.0, 0.25),
        gray=d.chance("grey", 0.12),
        blur=d.uniform("blur") ** 3,
        noise=0.04 * d.uniform("noise") ** 2,
        waves=d.uniform("waves", -1.0, 1.0, 9),
        stripe=d.uniform("stripe", 0.0, 1.0, 4),
        glasses=(wears < 0.12).float(),
        dark_glasses=(wears < 0.015).float(),
        scarf=((wears >= 0.12) & (wears < 0.13)).float(),
        hat=((wears >= 0.13) & (wears < 0.21)).float(),
        thing=torch.cat([has_thing, d.uniform("thing", -1.0, 1.0, 4)], 1),
    )
