"""Hair: a shell around the skull, cut by a hair line, and a second shell behind the head.

Shapes: B faces, P pixels; points (B, 3, P) in head axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .brush import blob, edge, over
from .face3d import Ellipsoids, Frame, Surface, hits, stacked, unit
from .parameters import Faces
from .scene import lit

_CAP, _HANGING = 0, 1


def _shells(faces: Faces) -> Ellipsoids:
    """The cap and the hanging hair."""
    s = faces.shape
    grow = 0.07 * s.hair_volume
    hang = s.hair_length
    cap = (
        0,
        -0.23 - 0.4 * grow,
        -0.18,
        0.755 * s.width + 0.6 * grow,
        0.86 + grow,
        0.905 + 0.4 * grow,
    )
    hanging = (
        0,
        0.05 + 0.42 * hang,
        -0.35,
        (0.70 + 0.22 * hang) * s.width,
        0.72 + 0.60 * hang,
        0.50 + 0.06 * hang,
    )
    return stacked([cap, hanging])


class Hair:
    """The shells of B faces: intersected once, painted behind the head and over it."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.parts = _shells(frame.faces)
        self.met = hits(self.parts, frame)

    def behind(self, image: Tensor) -> Tensor:
        """Paint the hair behind the head: what hangs down, and the far side of the cap.

        That side is visible between a temple and the outline of the hair.
        """
        frame = self.frame
        faces = frame.faces
        long_enough = (faces.shape.hair_length * 4).clamp(0, 1)
        color, _ = self._lit(_HANGING)
        image = over(image, self.met.cover[:, _HANGING] * long_enough, color * 0.75)
        # Points behind the skull stand for the far side of the cap.
        deep = frame.points(torch.full_like(frame.rays[:, 0], -0.35))
        mask = self.met.cover[:, _CAP] * _grows(deep, frame)
        return over(image, mask, faces.colors.hair * (0.25 + 0.5 * faces.shot.ambient))

    def over_head(self, image: Tensor, skin: Surface) -> Tensor:
        """Paint the cap where it is in front of the skin or beside it, and the hat on it."""
        color, point = self._lit(_CAP)
        nearer = ((self.met.depth[:, _CAP] - skin.depth) / 0.03 + 0.5).clamp(0, 1)
        cover = self.met.cover[:, _CAP] * (1 - skin.cover * (1 - nearer))
        image = over(image, cover * _grows(point, self.frame), color)
        return _hat(image, point, cover, self.frame)

    def _lit(self, which: int) -> tuple[Tensor, Tensor]:
        """Return the lit color and the point of one shell; both (B, 3, P)."""
        point = self.frame.points(self.met.depth[:, which])
        outward = point - self.parts.center[:, which, :, None]
        normal = unit(outward / self.parts.radius[:, which, :, None].square())
        faces = self.frame.faces
        albedo = faces.colors.hair[..., None] * _strands(point, faces)[:, None]
        return lit(albedo, normal, self.frame, gloss=0.16), point


def _strands(point: Tensor, faces: Faces) -> Tensor:
    """(B, P): a factor for light and dark strands."""
    x, y, z = point.unbind(1)
    swing, curl = faces.shape.parting, faces.shape.curl
    fine = torch.sin(31 * (x + swing) + 13 * z + 4 * torch.sin(3 * y + 5 * swing))
    curls = torch.sin(24 * x + 5 * torch.sin(17 * y)) * torch.sin(26 * y + 9 * z)
    return 0.90 + 0.08 * (1 - curl) * fine + 0.17 * curl * curls


def _grows(point: Tensor, frame: Frame) -> Tensor:
    """(B, P): where hair grows on the cap, above the hair line and from the temples to the neck."""
    s = frame.faces.shape
    x, y, z = point.unbind(1)
    off = x - 0.6 * s.parting
    jag = (
        0.018 * torch.sin(21 * x + 3 * s.parting)
        + 0.012 * torch.sin(47 * x)
        - 0.05 * blob(off / 0.12)
    )
    line = s.hair_line + s.fringe * (1 + 0.5 * s.parting * x) + s.hair_round * off.square() + jag
    neck = 0.16 + 0.5 * (-z - 0.1).clamp(0, 1) + 0.7 * s.hair_length
    temple = -0.02 - z + 0.18 * s.hair_length - 0.18 * (y + 0.3).clamp(-0.4, 0.4)
    # A bald head still has hair on its sides.
    crown = y + 0.30 + 4 * (s.hair_line + 0.85).clamp(0, 1)
    behind = temple.minimum(neck - y).minimum(crown)
    return edge(0.6 * (line - y).maximum(behind), frame.sharpness)


def _hat(image: Tensor, point: Tensor, cover: Tensor, frame: Frame) -> Tensor:
    """Paint a knitted cap over the upper hair."""
    x, y, z = point.unbind(1)
    shot = frame.faces.shot
    above = -0.50 - y + 0.12 * z
    brim = 1 - (above / 0.16).clamp(0, 1)
    knit = 0.75 + 0.15 * torch.sin(30 * x) - 0.2 * brim + 0.25 * z.clamp(-0.5, 0.8)
    shade = knit * (0.55 + 0.45 * shot.ambient)
    cloth = frame.faces.colors.cloth[..., None] * shade[:, None]
    return over(image, edge(above, frame.sharpness) * cover * shot.hat, cloth)
