"""Face boxes from landmarks or centers, and crops.

A box is (left, top, right, bottom) in pixels, x right, y down. Readers store boxes as the
annotation "box_px" (N, 4), so another crop gives another fingerprint. The crop is made when an
image is decoded. A crop that is not square ("hopenet", or "none" of an oblong image) loses its ends
when the run resizes it: `shrink` takes the central square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from mtlcore import Index, MtlError, read_image

Crop = Literal["square", "hopenet", "none"]

MARGIN = 0.2  # on each side of a square, as a share of the landmarks' longer extent


def read_face(crop: Crop, root: Path, index: Index, i: int) -> np.ndarray:
    """Read the image of sample `i`, cropped to its "box_px": (H, W, 3) uint8."""
    key = str(index.keys[i])
    image = read_image(key, root)
    if crop == "none":
        return image
    box = np.asarray(index.annotations["box_px"][i])
    return cut_box(image, box, key) if crop == "hopenet" else cut_square(image, box, key)


def read_face_and_points(
    crop: Crop, root: Path, index: Index, i: int, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read the image of sample `i` and move its points (2, P) with the crop. -> image, (P, 2)."""
    key = str(index.keys[i])
    image = read_image(key, root)
    if crop == "none":
        return image, points.T
    box = np.asarray(index.annotations["box_px"][i])
    if crop == "hopenet":
        x0, y0, _, _ = _box_on_image(image, box, key)
        return cut_box(image, box, key), points.T - [x0, y0]
    left, top, _ = _square_on_image(image, box, key)
    return cut_square(image, box, key), points.T - [left, top]


def square_box(points: np.ndarray, margin: float) -> np.ndarray:
    """(2, P) landmarks in pixels -> (4,): their square, wider by `margin` times its size."""
    low = points.min(1)
    high = points.max(1)
    half = (high - low).max() * (0.5 + margin)
    center = (low + high) / 2
    return np.concatenate([center - half, center + half])


def widened_box(
    points: np.ndarray, left: float, top: float, right: float, bottom: float
) -> np.ndarray:
    """(2, P) landmarks -> (4,): their box, widened by shares of its width and height.

    The order is that of Hopenet's code: left and top move first, and the shares of right and bottom
    refer to the box that results.
    """
    (x0, y0), (x1, y1) = points.min(1), points.max(1)
    x0, y0 = x0 - left * (x1 - x0), y0 - top * (y1 - y0)
    x1, y1 = x1 + right * (x1 - x0), y1 + bottom * (y1 - y0)
    return np.array([x0, y0, x1, y1])


def cut_square(image: np.ndarray, box: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3) -> (S, S, 3): a square crop, shrunk and moved so that it is inside the image.

    Raises MtlError if the box and the image do not overlap.
    """
    left, top, size = _square_on_image(image, box, name)
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _square_on_image(image: np.ndarray, box: np.ndarray, name: str) -> tuple[int, int, int]:
    """The left, the top and the size of the square that `cut_square` takes."""
    x0, y0, x1, y1 = _box_on_image(image, box, name)
    h, w = image.shape[:2]
    size = min(x1 - x0, y1 - y0, h, w)
    left = min(max(round((x0 + x1 - size) / 2), 0), w - size)
    top = min(max(round((y0 + y1 - size) / 2), 0), h - size)
    return left, top, size


def cut_box(image: np.ndarray, box: np.ndarray, name: str) -> np.ndarray:
    """(H, W, 3) -> the box itself, black outside of the image (as Pillow's `crop`).

    Raises MtlError if the box and the image do not overlap.
    """
    x0, y0, x1, y1 = _box_on_image(image, box, name)
    h, w = image.shape[:2]
    out = np.zeros((y1 - y0, x1 - x0, 3), dtype=np.uint8)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x1, w), min(y1, h)
    out[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return out


def _box_on_image(image: np.ndarray, box: np.ndarray, name: str) -> tuple[int, int, int, int]:
    """The box in whole pixels, truncated as in the published readers."""
    h, w = image.shape[:2]
    # Beyond it are broken files only, and a crop of that size could exhaust the memory.
    limit = 4 * max(h, w)
    if not np.isfinite(box).all() or np.abs(box).max() > limit:
        raise MtlError(
            f"{name}: its face box {box.tolist()} is far outside of an image of {w} x {h} pixels"
        )
    x0, y0, x1, y1 = (int(v) for v in box)
    is_empty = x1 - x0 < 2 or y1 - y0 < 2
    is_outside = x1 <= 0 or y1 <= 0 or x0 >= w or y0 >= h
    if is_empty or is_outside:
        raise MtlError(
            f"{name}: its face box {[x0, y0, x1, y1]} is empty or outside of an image of "
            f"{w} x {h} pixels"
        )
    return x0, y0, x1, y1
