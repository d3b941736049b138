"""From the items of a source to the regions that the network reads, some images ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from attrs import evolve, frozen

from ..contracts import Detector
from ..contracts.detector import Detect
from ..data.cache import threads
from ..errors import MtlError
from ..model.preprocess import Preprocess
from .results import Prediction
from .sources import Item

AHEAD = 2  # pieces that are decoded while the network computes, beyond one for each thread
PIECES = 8  # of a batch: what waits in memory, maybe with all its pixels, is small

NOTHING_FOUND = "the detector found nothing"
"""The error of an image that was read, and has no region."""


@frozen(eq=False)
class Region:
    """One region to predict, and its prediction so far.

    image: stored; None after an error. size: (H, W) of the region in the image, in pixels.
    """

    prediction: Prediction
    image: np.ndarray | None
    size: tuple[int, int] = (0, 0)


@frozen(eq=False)
class OpenedImage:
    """One image and its regions, at least one. image: (H, W, 3) uint8, if it is kept."""

    image: np.ndarray | None
    regions: Sequence[Region]


@frozen(eq=False)
class RegionReader:
    """Opens images, finds their regions, and crops and resizes these.

    batch_size: of the network. keep: also keep the images themselves.
    detector, detect: it, and what its `build` returned; None for the whole image.
    """

    preprocess: Preprocess
    batch_size: int
    keep: bool
    detector: Detector | None = None
    detect: Detect | None = None

    def read(self, items: Iterator[Item]) -> Iterator[OpenedImage]:
        """Decode items in pieces of a batch, by threads, some ahead, and yield them in order."""
        piece = max(1, self.batch_size // PIECES)
        waiting: deque[Future[list[OpenedImage]]] = deque()
        with ThreadPoolExecutor(threads(), "decode") as pool:
            try:
                while next_items := list(islice(items, piece)):
                    waiting.append(pool.submit(self._opened_all, next_items))
                    if len(waiting) > threads() + AHEAD:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            finally:
                # If the caller stops early, the remaining pieces must not be decoded.
                pool.shutdown(wait=False, cancel_futures=True)

    def _opened_all(self, items: Sequence[Item]) -> list[OpenedImage]:
        return [self._opened(item) for item in items]

    def _opened(self, item: Item) -> OpenedImage:
        whole = Prediction(item.name, frame=item.frame)
        try:
            image = item.open()
        except MtlError as error:
            return OpenedImage(None, [_failed(whole, str(error))])
        kept = image if self.keep else None
        try:
            return OpenedImage(kept, self._regions(whole, image))
        except MtlError as error:
            return OpenedImage(kept, [_failed(whole, str(error))])

    def _regions(self, whole: Prediction, image: np.ndarray) -> list[Region]:
        if self.detect is None or self.detector is None:
            return [Region(whole, self.preprocess.store(image), _size(image))]
        found = self.detect(image)
        regions: list[Region] = []
        for box, score in zip(found.boxes, found.scores):
            left, top, right, bottom = (float(side) for side in box)
            one = evolve(whole, box=(left, top, right, bottom), score=float(score))
            crop = self.detector.crop(image, box)
            regions.append(Region(one, self.preprocess.store(crop), _size(crop)))
        return regions or [_failed(whole, NOTHING_FOUND)]


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _failed(whole: Prediction, error: str) -> Region:
    return Region(evolve(whole, error=error), None)
