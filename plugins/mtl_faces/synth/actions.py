"""Facial expressions: muscle actions, and the actions of each emotion.

Actions are those of the Facial Action Coding System (Ekman and Friesen 1978). Each is 0 at rest and
1 at full strength. Each emotion has two prototypes with different actions (a closed and an open
smile, pressed lips and bared teeth). Strength, the two sides and single actions vary, so a class is
a region and not a point.

Shapes: B faces, A = 16 actions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..emotions import Emotion
from .draws import Draws


class Actions(NamedTuple):
    """Strengths, each (B, 2): on the image's left and right of a frontal face.

    The numbers in the comments are those of the coding system.
    """

    inner_brow: Tensor  # 1: raises the brow's inner end
    outer_brow: Tensor  # 2: raises the outer end
    brow_lower: Tensor  # 4: lowers and draws together
    lid_widen: Tensor  # 5: raises the upper lid
    cheek: Tensor  # 6: raises cheek and lower lid
    lid_tighten: Tensor  # 7
    nose_wrinkle: Tensor  # 9
    lip_raise: Tensor  # 10: raises the upper lip
    corner_pull: Tensor  # 12: smile
    dimple: Tensor  # 14: tightens a mouth corner
    corner_drop: Tensor  # 15
    chin: Tensor  # 17: pushes the chin up
    stretch: Tensor  # 20: draws the lips sideways
    press: Tensor  # 24
    part: Tensor  # 25: shows the teeth
    jaw: Tensor  # 26: opens the mouth


_PROTOTYPES: dict[Emotion, tuple[dict[str, float], dict[str, float]]] = {
    Emotion.NEUTRAL: ({}, {}),
    Emotion.HAPPINESS: (
        {"cheek": 0.9, "corner_pull": 1.0, "part": 0.9, "jaw": 0.15},
        {"cheek": 0.7, "corner_pull": 1.0},
    ),
    Emotion.SADNESS: (
        {
            "inner_brow": 1.0,
            "brow_lower": 0.15,
            "corner_drop": 1.0,
            "chin": 0.6,
            "lid_tighten": 0.35,
        },
        {"inner_brow": 0.85, "corner_drop": 0.8, "lid_tighten": 0.75, "press": 0.2},
    ),
    Emotion.SURPRISE: (
        {"inner_brow": 1.0, "outer_brow": 1.0, "lid_widen": 0.9, "jaw": 1.0},
        {"inner_brow": 1.0, "outer_brow": 0.9, "lid_widen": 0.7, "jaw": 0.5},
    ),
    Emotion.FEAR: (
        {
            "inner_brow": 1.0,
            "outer_brow": 0.25,
            "brow_lower": 0.4,
            "lid_widen": 1.0,
            "stretch": 1.0,
            "part": 0.9,
            "jaw": 0.3,
        },
        {
            "inner_brow": 0.9,
            "outer_brow": 0.3,
            "brow_lower": 0.4,
            "lid_widen": 0.9,
            "stretch": 0.9,
            "part": 0.3,
            "jaw": 0.1,
        },
    ),
    Emotion.DISGUST: (
        {
            "nose_wrinkle": 1.0,
            "lip_raise": 1.0,
            "brow_lower": 0.5,
            "lid_tighten": 0.6,
            "cheek": 0.4,
            "part": 0.5,
        },
        {
            "nose_wrinkle": 1.0,
            "lip_raise": 0.7,
            "brow_lower": 0.4,
            "lid_tighten": 0.5,
            "chin": 0.7,
            "corner_drop": 0.35,
        },
    ),
    Emotion.ANGER: (
        {"brow_lower": 1.0, "lid_widen": 0.45, "lid_tighten": 0.45, "press": 1.0, "chin": 0.4},
        {
            "brow_lower": 1.0,
            "lid_widen": 0.5,
            "lid_tighten": 0.3,
            "part": 1.0,
            "stretch": 0.45,
            "jaw": 0.25,
            "lip_raise": 0.3,
        },
    ),
    Emotion.CONTEMPT: (
        {"corner_pull": 1.1, "dimple": 1.0, "lid_tighten": 0.5, "press": 0.5},
        {
            "corner_pull": 0.9,
            "dimple": 1.0,
            "outer_brow": 0.8,
            "lip_raise": 0.4,
            "lid_tighten": 0.3,
        },
    ),
}
ONE_SIDED = ("corner_pull", "dimple", "outer_brow", "lip_raise")  # of contempt


def _table() -> Tensor:
    """(8, 2, A): strengths by emotion, prototype and action."""
    rows = [
        [prototype.get(action, 0.0) for action in Actions._fields]
        for emotion in Emotion
        for prototype in _PROTOTYPES[emotion]
    ]
    return torch.tensor(rows).unflatten(0, (len(Emotion), 2))


def draw_actions(draws: Draws, emotion: Tensor) -> Actions:
    """Draw the actions of faces with these emotions (B,) int64."""
    prototype = draws.chance("which of two faces", 0.5).long()[:, 0]
    nominal = _table().to(emotion.device)[emotion, prototype]  # (B, A)
    count = nominal.shape[1]

    strength = 0.65 + 0.5 * draws.uniform("strength").sqrt()
    own = draws.uniform("strength of single actions", 0.8, 1.2, count)
    both = nominal * strength * own
    difference = draws.bell("sides differ", 0.0, 0.2, 2 * count).unflatten(1, (count, 2))
    sides = both[..., None] * (1 + difference)
    contempt = emotion == list(Emotion).index(Emotion.CONTEMPT)
    sides = sides * _one_sided(draws, contempt)

    # Small actions that belong to no emotion, and a mouth that talks.
    idle = draws.bell("idle", 0.0, 0.22, count)[..., None].clamp_min(0)
    talk = draws.chance("talks", 0.10) * draws.uniform("talks how", 0.1, 0.3)
    idle = idle + talk[..., None] * _one("jaw", emotion.device)

    # Idle actions fill what the emotion leaves: a full action gets none.
    strengths = sides + (1 - sides.clamp(0, 1)) * idle
    return Actions(*strengths.unbind(1))


def _one(name: str, device: torch.device) -> Tensor:
    """(A, 1): 1 for the action of this name, 0 for the others."""
    return torch.tensor([[float(a == name)] for a in Actions._fields], device=device)


def _one_sided(draws: Draws, contempt: Tensor) -> Tensor:
    """(B, A, 2) factors: contempt slightly reverses these actions on one side."""
    side = draws.chance("side of contempt", 0.5)
    weaker = torch.cat([side, 1 - side], 1)[:, None]  # (B, 1, 2)
    affected = torch.tensor(
        [[float(a in ONE_SIDED)] for a in Actions._fields], device=contempt.device
    )
    return 1 - 1.15 * contempt.float()[:, None, None] * affected * weaker
