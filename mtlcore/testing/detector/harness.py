"""The harness of a detector: images, its regions in them, and boxes to crop.

A detector may find nothing in drawn patterns. If it has `examples(n, rng)`, the checks also use
those images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from ...contracts import Detections, Detector
from ...contracts.detector import Detect
from ...rng import KeyedRng, Rng
from ..subject import Subject, patterns

EXAMPLES = 3
SIZES = ((1, 1), (1, 40), (7, 5), (16, 300), (300, 16), (1200, 1600))
"""(h, w) of odd images, in pixels."""


class DetectorSubject(Subject[Detector]):
    """A detector in the harness."""

    @cached_property
    def detect(self) -> Detect:
        """The built detector."""
        return self.component.build()

    @cached_property
    def examples(self) -> list[np.ndarray]:
        """Images in which the detector finds something, if it has some: (H, W, 3) uint8."""
        own: Callable[[int, Rng], Sequence[np.ndarray]] | None
        own = getattr(self.component, "examples", None)
        if own is None:
            return []
        return [np.asarray(image) for image in own(EXAMPLES, KeyedRng((0,))("examples"))]

    @cached_property
    def images(self) -> list[np.ndarray]:
        """Its examples, drawn patterns, and plain images."""
        drawn = [image_of(size, seed) for seed, size in enumerate(((64, 64), (90, 60), (48, 130)))]
        plain = [np.full((80, 100, 3), value, dtype=np.uint8) for value in (0, 128, 255)]
        return [*self.examples, *drawn, *plain]

    @cached_property
    def found(self) -> list[tuple[np.ndarray, Detections]]:
        """Each of `images` with its regions."""
        return [(image, self.detect(image)) for image in self.images]


def image_of(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8: a drawn pattern."""
    height, width = size
    square = patterns(1, max(size), seed)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(square[:height, :width])


def boxes_in(size: tuple[int, int]) -> list[np.ndarray]:
    """Boxes of all places in an image of `size` (h, w): inside, at the borders, and beyond."""
    height, width = size
    found: list[np.ndarray] = []
    for x in (-0.1, 0.3, 0.8):
        for y in (-0.1, 0.3, 0.8):
            left, top = x * width, y * height
            found.append(np.array([left, top, left + 0.3 * width, top + 0.3 * height]))
    found.append(np.array([0.0, 0.0, width, height]))
    found.append(np.array([-0.5 * width, -0.5 * height, 1.5 * width, 1.5 * height]))
    return found


def same(one: Detections, other: Detections) -> bool:
    """Whether two results are equal, bit for bit."""
    if (one.points is None) != (other.points is None):
        return False
    points = one.points is None or np.array_equal(one.points, np.asarray(other.points))
    return (
        points
        and np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.scores, other.scores)
    )
