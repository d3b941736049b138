"""`Detector`: finds the regions of an image that a model was trained on, such as faces."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

import numpy as np
from attrs import frozen

from .components import Component


@frozen(eq=False)
class Detections:
    """The n regions that a detector found in one image, the best first.

    boxes: (n, 4) float, left, top, right, bottom in pixels of the image, x right, y down. They may
    reach beyond the image.
    scores: (n,) float in [0, 1].
    points: (n, K, 2) float, x and y in pixels, or None if the detector finds none. Faces have five:
    the eye on the left of the image, the one on the right, the nose, both corners of the mouth.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.boxes)


class Detect(Protocol):
    """What `Detector.build` returns. Several threads may call it at once."""

    def __call__(self, image: np.ndarray) -> Detections:
        """Find the regions of an upright RGB image (H, W, 3) uint8."""
        ...


class Detector(Component):
    """Finds regions in an image, to predict a crop of each. Training uses no detector."""

    kind = "detector"

    @abstractmethod
    def build(self) -> Detect:
        """Load the detector. Raises MtlError if a file or a package is missing."""

    @abstractmethod
    def crop(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Cut one region out of an image, as the datasets of training cut theirs.

        image: (H, W, 3) uint8. box: (4,) as in `Detections`. -> (h, w, 3) uint8, not empty.
        """
