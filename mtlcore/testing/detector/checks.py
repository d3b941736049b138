"""All checks of detectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ...contracts import Detections
from ..common import COMMON
from ..generators import require_no_global_draws
from ..kit import CheckList, Group
from ..requirements import Skip, require
from ..subject import batches
from .harness import SIZES, DetectorSubject, boxes_in, image_of, same

REGIONS = "regions_have_their_shapes"
CROPS = "crop_is_an_image"
BEYOND = 1.0  # how far a box may reach beyond the image, as a share of its longer side
SMALLEST_PX = 8  # of boxes whose crop must show their center

DETECTOR_CHECKS = Group()

# ---------------------------------------------------------------------------------------- regions


@DETECTOR_CHECKS.check(
    "regions",
    why="prediction reads a box and a score for each region.",
    mend="Return mtlcore.Detections(boxes (n, 4), scores (n,), points (n, K, 2) or None): floats, "
    "with n = 0 where nothing is found.",
    needs="builds_from_its_name",
    core=True,
)
def regions_have_their_shapes(subject: DetectorSubject) -> None:
    """`build` returns a function: image (H, W, 3) uint8 -> Detections of finite floats."""
    for image, found in subject.found:
        where = f"in an image {image.shape}"
        require(isinstance(found, Detections), f"it returns {type(found).__name__}")
        n = len(found.scores)
        _require_array(found.scores, (n,), f"the scores {where}")
        _require_array(found.boxes, (n, 4), f"the boxes {where}")
        if found.points is not None:
            k = np.shape(found.points)[1] if np.ndim(found.points) == 3 else 0
            _require_array(found.points, (n, k, 2), f"the points {where}")


@DETECTOR_CHECKS.check(
    "regions",
    why="a crop outside of the image shows nothing, and an empty box has no crop.",
    mend="Return left, top, right, bottom in pixels of the image that was passed, not of a resized "
    "or padded copy.",
    needs=REGIONS,
    core=True,
)
def boxes_are_near_the_image(subject: DetectorSubject) -> None:
    """Boxes are not empty, overlap the image, and reach at most its longer side beyond it."""
    for image, found in subject.found:
        height, width = image.shape[:2]
        beyond = BEYOND * max(height, width)
        for left, top, right, bottom in found.boxes.tolist():
            box = f"[{left:.4g}, {top:.4g}, {right:.4g}, {bottom:.4g}]"
            shown = f"a box is {box} in an image of {width} x {height} pixels"
            require(left < right and top < bottom, f"{shown}: it is empty")
            overlaps = right > 0 and bottom > 0 and left < width and top < height
            require(overlaps, f"{shown}: it lies outside")
            near = min(left, top) >= -beyond
            near = near and right <= width + beyond and bottom <= height + beyond
            require(near, f"{shown}: it reaches too far beyond")


@DETECTOR_CHECKS.check(
    "regions",
    why="users take the first region, or those above a score.",
    mend="Sort the regions by their score in [0, 1], the best first.",
    needs=REGIONS,
    core=True,
)
def scores_fall_from_the_best(subject: DetectorSubject) -> None:
    """Scores are in [0, 1], and the best region is the first."""
    for _, found in subject.found:
        scores = found.scores
        inside = bool(((scores >= 0) & (scores <= 1)).all())
        require(inside, f"scores are {scores.tolist()}")
        require(bool((np.diff(scores) <= 0).all()), f"the scores are not sorted: {scores.tolist()}")


@DETECTOR_CHECKS.check(
    "regions",
    why="without a region, the crops of its own boxes are not checked.",
    mend="Add `examples(n, rng)`, which returns n images (H, W, 3) uint8 with regions to find.",
    needs=REGIONS,
)
def finds_a_region_in_its_examples(subject: DetectorSubject) -> None:
    """It finds a region in each image of `examples`, or in a drawn image if it has none."""
    if not subject.examples and not any(len(found) for _, found in subject.found):
        raise Skip("it finds nothing in the drawn images, and has no `examples(n, rng)`")
    for number, image in enumerate(subject.examples):
        require(len(subject.detect(image)) > 0, f"nothing is found in example {number}")


@DETECTOR_CHECKS.check(
    "regions",
    why="one odd image in a folder must not end the prediction of all others.",
    mend="Pad or resize to the sizes that your network needs, and return no region if there is "
    "none.",
    needs=REGIONS,
    core=True,
)
def accepts_images_of_any_size(subject: DetectorSubject) -> None:
    """Tiny, oblong and large images give Detections."""
    for size in SIZES:
        found = subject.detect(image_of(size))
        _require_array(found.boxes, (len(found.scores), 4), f"the boxes in an image {size}")


@DETECTOR_CHECKS.check(
    "regions",
    why="frames of a video and memory-mapped arrays are read-only, or views of other arrays.",
    mend="Copy the image before you change it, and use np.ascontiguousarray where you need it.",
    needs=REGIONS,
    core=True,
)
def accepts_views_and_leaves_them_unchanged(subject: DetectorSubject) -> None:
    """Read-only and strided arrays give the regions of a plain copy. The pixels do not change."""
    for image in subject.images:
        wide = np.repeat(image, 2, axis=1)
        strided = wide[:, ::2]
        strided.setflags(write=False)
        before = strided.copy()
        found = subject.detect(strided)
        require(np.array_equal(strided, before), "it changes the image")
        require(same(found, subject.detect(before)), "a strided array has other regions")


# ----------------------------------------------------------------------------------- independence


@DETECTOR_CHECKS.check(
    "independence",
    why="a prediction could not be repeated.",
    mend="Keep no state between calls, and draw nothing.",
    needs=REGIONS,
    core=True,
)
def same_image_same_regions(subject: DetectorSubject) -> None:
    """The same image gives the same regions, in any order of images, also if built again."""
    again = subject.component.build()
    for image, found in reversed(subject.found):
        require(same(subject.detect(image), found), "a second call finds other regions")
        require(same(again(image), found), "built again, it finds other regions")
    require_no_global_draws(lambda: subject.detect(subject.images[0]).scores, "it")


@DETECTOR_CHECKS.check(
    "independence",
    why="images are read by several threads at once.",
    mend="Keep no buffers in the detector. Use a lock around a library that is not thread-safe.",
    needs="same_image_same_regions",
    core=True,
)
def works_in_several_threads(subject: DetectorSubject) -> None:
    """Four threads find the same regions as one."""
    tasks = subject.found * 4
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda pair: subject.detect(pair[0]), tasks))
    equal = all(same(found, pair[1]) for found, pair in zip(results, tasks))
    require(equal, "regions differ between threads")


# ------------------------------------------------------------------------------------------ crops


@DETECTOR_CHECKS.check(
    "crops",
    why="the network predicts the crop.",
    mend="Return an array (h, w, 3) uint8, cut to the image. Boxes may reach beyond it.",
    needs=REGIONS,
    core=True,
)
def crop_is_an_image(subject: DetectorSubject) -> None:
    """`crop` of its own boxes, and of boxes at the border, is (h, w, 3) uint8 and not empty."""
    for image, found in subject.found:
        before = image.copy()
        for box in [*found.boxes, *boxes_in((image.shape[0], image.shape[1]))]:
            crop = subject.component.crop(image, box)
            shown = f"the crop of {np.round(box, 1).tolist()} in {image.shape}"
            require(isinstance(crop, np.ndarray), f"{shown} is {type(crop).__name__}")
            require(crop.dtype == np.uint8, f"{shown} is {crop.dtype}")
            shape = crop.shape
            right = len(shape) == 3 and shape[2] == 3 and min(shape) > 0
            require(right, f"{shown} has the shape {shape}")
        require(np.array_equal(image, before), "it changes the image")


@DETECTOR_CHECKS.check(
    "crops",
    why="a crop of another place gives the answer for that place.",
    mend="Cut around the center of the box: x is the second axis of the image, y the first.",
    needs=CROPS,
    core=True,
)
def crop_shows_the_center_of_its_box(subject: DetectorSubject) -> None:
    """The crop of a box contains the pixels at the center of the box."""
    for size in ((200, 200), (150, 320), (320, 150)):
        for box in boxes_in(size)[:9]:
            left, top, right, bottom = np.clip(box, 0, np.array([size[1], size[0]] * 2))
            x, y = int((left + right) / 2), int((top + bottom) / 2)
            image = np.full((*size, 3), 128, dtype=np.uint8)
            half = SMALLEST_PX // 2
            image[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = (255, 0, 0)
            crop = subject.component.crop(image, box).astype(int)
            red = (crop[..., 0] > 200) & (crop[..., 1] < 60)
            shown = f"{np.round(box, 1).tolist()} in an image of {size[1]} x {size[0]} pixels"
            require(bool(red.any()), f"the crop does not show the center of {shown}")


@DETECTOR_CHECKS.check(
    "crops",
    why="prediction reads the central rectangle of a crop, so an oblong crop loses its ends.",
    mend="Cut a square around the region, as the datasets of training do, or declare it: "
    'lacks = {"square": "..."}.',
    needs=CROPS,
    capability="square",
)
def crop_is_square(subject: DetectorSubject) -> None:
    """The crop of a box inside of the image is a square, up to a pixel."""
    for size in ((200, 200), (150, 320), (320, 150)):
        height, width = size
        for high, wide in ((0.2, 0.1), (0.1, 0.2)):
            center = np.array([width, height]) / 2
            half = min(size) * np.array([wide, high])
            crop = subject.component.crop(
                image_of(size), np.concatenate([center - half, center + half])
            )
            h, w = crop.shape[:2]
            require(abs(h - w) <= 1, f"a crop has {w} x {h} pixels")


def _require_array(x: object, shape: tuple[int, ...], what: str) -> None:
    require(isinstance(x, np.ndarray), f"{what} are {type(x).__name__}; expected a numpy array")
    array = np.asarray(x)
    require(array.shape == shape, f"{what} have the shape {array.shape}; expected {shape}")
    require(np.issubdtype(array.dtype, np.floating), f"{what} are {array.dtype}; expected floats")
    require(bool(np.isfinite(array).all()), f"{what} are not finite")


CHECKS = CheckList("detector", batches, (COMMON, DETECTOR_CHECKS))
HARNESS = DetectorSubject
