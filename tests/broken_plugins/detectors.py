"""A right detector, and for each check of the kit one that fails this check only.

BROKEN: check -> class.
"""

from __future__ import annotations

import time
from threading import Lock

import numpy as np
from attrs import evolve, frozen

from broken_plugins import Broken
from mtlcore import Detections, Detector

BROKEN = Broken()


@frozen
class Right(Detector):
    """Finds the left and the right half of an image."""

    def build(self):
        return self.find

    def find(self, image):
        height, width = image.shape[:2]
        bright = float(image.mean()) / 255
        boxes = [[0.0, 0.0, width / 2, height], [width / 2, 0.0, width, height]]
        return Detections(np.array(boxes), np.array([0.5 + bright / 2, bright / 2]))

    def crop(self, image, box):
        height, width = image.shape[:2]
        left, top, right, bottom = box
        side = int(min(max(right - left, bottom - top, 1), height, width))
        x = int(min(max((left + right - side) / 2, 0), width - side))
        y = int(min(max((top + bottom - side) / 2, 0), height - side))
        return image[y : y + side, x : x + side]


@frozen
class FindsFaces(Right):
    """It finds nothing in drawn images, and has no examples."""

    def find(self, image):
        found = super().find(image)
        return Detections(found.boxes[:0], found.scores[:0])


@BROKEN.fails("regions_have_their_shapes")
@frozen
class WholeNumbers(Right):
    """Its boxes are integers."""

    def find(self, image):
        found = super().find(image)
        return evolve(found, boxes=found.boxes.astype(int))


@BROKEN.fails("boxes_are_near_the_image")
@frozen
class InPixelsOfACopy(Right):
    """Its boxes are in the pixels of an enlarged copy."""

    def find(self, image):
        found = super().find(image)
        return evolve(found, boxes=found.boxes * 4)


@BROKEN.fails("scores_fall_from_the_best")
@frozen
class WorstFirst(Right):
    """The worst region is the first."""

    def find(self, image):
        found = super().find(image)
        return Detections(found.boxes[::-1], found.scores[::-1])


@BROKEN.fails("finds_a_region_in_its_examples")
@frozen
class MissesItsExample(Right):
    """It finds nothing in one of its own examples."""

    def examples(self, n, rng):
        return [np.full((40, 40, 3), value, dtype=np.uint8) for value in (7, 130, 200)]

    def find(self, image):
        found = super().find(image)
        return Detections(found.boxes[:0], found.scores[:0]) if image.mean() == 7 else found


@BROKEN.fails("accepts_images_of_any_size")
@frozen
class NeedsRoom(Right):
    """It raises for tiny images."""

    def find(self, image):
        if min(image.shape[:2]) < 8:
            raise ValueError("too small")
        return super().find(image)


@BROKEN.fails("accepts_views_and_leaves_them_unchanged")
@frozen
class ReadsMemory(Right):
    """It reads the memory behind an array, whatever its strides."""

    def find(self, image):
        found = super().find(image)
        return found if image.flags.c_contiguous else Detections(found.boxes, found.scores * 0.9)


SEEN = [0, 0]  # the last image, and the last other one


@BROKEN.fails("same_image_same_regions")
@frozen
class Remembers(Right):
    """Its scores depend on the image before."""

    def find(self, image):
        found = super().find(image)
        this = hash(image.tobytes())
        if this != SEEN[0]:
            SEEN[:] = this, SEEN[0]
        return evolve(found, scores=found.scores * (1 - SEEN[1] % 1000 / 2000))


BUSY = Lock()


@BROKEN.fails("works_in_several_threads")
@frozen
class OneAtATime(Right):
    """It refuses to be called by two threads at once."""

    def find(self, image):
        if not BUSY.acquire(blocking=False):
            raise RuntimeError("it is busy")
        try:
            time.sleep(0.002)
            return super().find(image)
        finally:
            BUSY.release()


@BROKEN.fails("crop_is_an_image")
@frozen
class CutsNothing(Right):
    """Boxes at the border have an empty crop."""

    def crop(self, image, box):
        return super().crop(image, box) if box[0] >= 0 else image[:0]


@BROKEN.fails("crop_shows_the_center_of_its_box")
@frozen
class SwapsAxes(Right):
    """It swaps x and y."""

    def crop(self, image, box):
        return super().crop(image, np.asarray(box)[[1, 0, 3, 2]])


@BROKEN.fails("crop_is_square")
@frozen
class Oblong(Right):
    """It cuts the box itself."""

    def crop(self, image, box):
        height, width = image.shape[:2]
        left, top, right, bottom = np.clip(box, 0, [width - 1, height - 1] * 2).astype(int)
        return image[top : bottom + 1, left : right + 1]
