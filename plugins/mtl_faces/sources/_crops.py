"""Where the face is in an image: boxes from landmarks or centers, and cutting them out.

A box is (left, top, right, bottom) in pixels, x right, y down. Readers give it as the annotation "box_px" (N, 4), so
that another crop gives another fingerprint, and cut when an image is decoded. What is then no square ("hopenet", or
"none" of an oblong image) loses its ends when the run shrinks it: `shrink` takes the central square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from mtlcore import Index, MtlError, read_image

Crop = Literal["square", "hopenet", "none"]

MARGIN = 0.2  # on each side of a square, as a share of the landmarks' longer side


def read_face(crop: Crop, root: Path, index: Index, row: int) -> np.ndarray:
    """The image that the row's key names, below the root, cut to its "box_px" -> (H, W, 3) uint8."""
    key = str(index.keys[row])
    image = read_image(key, root)
    if crop == "none":
        return image
    box = index.annotations["box_px"][row]
    return cut_box(image, box, key) if crop == "hopenet" else cut_square(image, box, key)


def square_box(points: np.ndarray, margin: float) -> np.ndarray:
    """(2, P) landmarks in pixels -> (4,): the square around them, `margin` of its side wider on each side."""
    low, high = points.min(1), points.max(1)
    half = (high - low).max() * (0.5 + margin)
    middle = (low + high) / 2
    return np.concatenate([middle - half, middle + half])


def widened_box(
    points: np.ndarray, left: float, top: float, right: float, bottom: float
) -> np.ndarray:
    """(2, P) landmarks -> (4,): their box, widened by shares of its sides, in the order in which Hopenet's code does it.

    Left and top are moved first, and right and bottom by shares of the sides as they are then.
    """
    (x0, y0), (x1, y1) = points.min(1), points.max(1)
    x0, y0 = x0 - left * (x1 - x0), y0 - top * (y1 - y0)
    x1, y1 = x1 + right * (x1 - x0), y1 + bottom * (y1 - y0)
    return np.array([x0, y0, x1, y1])


def cut_square(image: np.ndarray, box: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3) -> (S, S, 3): the square, no larger than the image and moved inside it: all of it is image.

    Raises MtlError where the box and the image have nothing in common.
    """
    x0, y0, x1, y1 = _on_image(image, box, name)
    h, w = image.shape[:2]
    side = min(x1 - x0, y1 - y0, h, w)
    left = min(max(round((x0 + x1 - side) / 2), 0), w - side)
    top = min(max(round((y0 + y1 - side) / 2), 0), h - side)
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def cut_box(image: np.ndarray, box: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3) -> the box as it is, black where it leaves the image (as Pillow's `crop`). Raises as `cut_square`."""
    x0, y0, x1, y1 = _on_image(image, box, name)
    h, w = image.shape[:2]
    out = np.zeros((y1 - y0, x1 - x0, 3), dtype=np.uint8)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, w), min(y1, h)
    out[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return out


def _on_image(image: np.ndarray, box: np.ndarray, name: str) -> tuple[int, int, int, int]:
    """The box in whole pixels, cut towards zero as the published readers do."""
    h, w = image.shape[:2]
    far = 4 * max(h, w)  # nobody's landmarks: a broken file, and memory without end
    if not np.isfinite(box).all() or np.abs(box).max() > far:
        raise MtlError(
            f"{name}: its face box {box.tolist()} is far outside of an image of {w} x {h} pixels"
        )
    x0, y0, x1, y1 = (int(v) for v in box)
    if x1 - x0 < 2 or y1 - y0 < 2 or x1 <= 0 or y1 <= 0 or x0 >= w or y0 >= h:
        raise MtlError(
            f"{name}: its face box {[x0, y0, x1, y1]} does not lie on an image of {w} x {h} pixels"
        )
    return x0, y0, x1, y1
