"""plugin_name: find the brightest square of an image.

Replace this text with your own: what the detector finds, with which network, and the paper.
"""

from __future__ import annotations

import numpy as np
from attrs import field, frozen
from attrs.validators import and_, gt, le
from numpy.lib.stride_tricks import sliding_window_view

from mtlcore import Detections, Detector, hookimpl

CELLS = 8  # the image is searched in this many steps along its shorter side


@frozen
class PluginName(Detector):
    """Find the brightest square of an image.

    share: the side of the square, as a share of the image's shorter side, in (0, 1].
    """

    name = "plugin_name"
    cites = "original"
    share: float = field(default=0.5, validator=and_(gt(0.0), le(1.0)))

    def build(self) -> Finder:
        """Load the network here: this is called once, before the first image."""
        return Finder(self.share)

    def crop(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Cut a square around the box, inside of the image.

        Cut it as the datasets of training cut theirs: the network has seen nothing else.
        """
        height, width = image.shape[:2]
        left, top, right, bottom = np.asarray(box, dtype=float)
        side = round(min(max(right - left, bottom - top, 1), height, width))
        x = round(min(max((left + right - side) / 2, 0), width - side))
        y = round(min(max((top + bottom - side) / 2, 0), height - side))
        return image[y : y + side, x : x + side]


@frozen(eq=False)
class Finder:
    """Several threads may call it at once, so it keeps no state between calls."""

    share: float

    def __call__(self, image: np.ndarray) -> Detections:
        """(H, W, 3) uint8 -> its regions, the best first, in pixels of this image."""
        side = max(round(min(image.shape[:2]) * self.share), 1)
        step = max(min(image.shape[:2]) // CELLS, 1)
        gray = image.mean(2)
        squares = sliding_window_view(gray, (side, side))[::step, ::step]
        brightness = squares.mean((2, 3))
        row, column = np.unravel_index(brightness.argmax(), brightness.shape)
        left, top = int(column) * step, int(row) * step
        box = np.array([left, top, left + side, top + side], dtype=float)
        return Detections(box[None], brightness.max(keepdims=True)[0] / 255)


@hookimpl
def mtl_components() -> list[type]:
    return [PluginName]
