"""The image as it is: one region, the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from attrs import frozen

from ..contracts import Detections, Detector
from ..contracts.detector import Detect


@frozen
class Whole(Detector):
    """The image as it is: one region with the score 1. Prediction without a detector reads this."""

    lacks: ClassVar[Mapping[str, str]] = {"square": "its crop is the image itself"}

    def build(self) -> Detect:
        return _whole

    def crop(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        return image


def _whole(image: np.ndarray) -> Detections:
    height, width = image.shape[:2]
    return Detections(np.array([[0.0, 0.0, width, height]]), np.ones(1))
