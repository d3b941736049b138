"""The 68 landmarks of a face, in the order of iBUG 300-W.

Sagonas et al., "300 Faces in-the-Wild Challenge", ICCV workshops 2013.
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import and_, ge, le

from mtlcore import Landmarks, hookimpl

MIRRORED = (
    *((number, 16 - number) for number in range(8)),  # jaw
    *((number, 43 - number) for number in range(17, 22)),  # eyebrows
    (31, 35),
    (32, 34),  # nostrils
    *((number, 81 - number) for number in range(36, 40)),  # upper lids and corners of the eyes
    (40, 47),
    (41, 46),  # lower lids
    *((number, 102 - number) for number in range(48, 51)),  # upper edge of the mouth
    *((number, 114 - number) for number in range(55, 57)),  # its lower edge
    *((number, 124 - number) for number in range(60, 62)),  # inside of the mouth
    (65, 67),
)
"""Points that change places in a mirrored face. The others are on the middle line."""


@frozen
class FaceLandmarks(Landmarks):
    """Predict "landmarks", 68 points of a face.

    The error is divided by the size of the box around the true points, as usual for AFLW2000-3D.
    Other fields: as in landmarks.
    """

    points: int = field(default=68, validator=and_(ge(1), le(10000)))
    reads: str = "landmarks"
    flip_pairs: tuple[tuple[int, ...], ...] = MIRRORED


@hookimpl
def mtl_components() -> list[type]:
    return [FaceLandmarks]
