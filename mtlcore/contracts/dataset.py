"""What a dataset returns: the index of its samples, and each sample decoded.

Shapes: N samples of a dataset, (H, W) pixels of an image, C channels of a map, K points.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
from attrs import field, frozen
from attrs.converters import optional

from ..errors import MtlError
from .columns import Categories, Column, as_column, as_columns, as_keys
from .components import Component
from .texts import Texts

MAP_DTYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64")
"""The dtypes of maps besides floats. uint64 is not supported: torch can't compute with it."""


def is_map_dtype(dtype: np.dtype) -> bool:
    """Return whether a map may have this dtype."""
    return dtype.kind == "f" or dtype.name in MAP_DTYPES


class SampleError(MtlError):
    """`Dataset.decode` created an invalid `Sample`."""


@frozen(eq=False)
class Sample:
    """One decoded sample: an image, and the maps and points that are aligned with its pixels.

    image: (H, W, 3) uint8, RGB.
    maps: name -> (H, W) or (H, W, C), with the image's height and width: integers or bool (classes,
    instances), or floats (depth, normals).
    points: name -> (K, 2) float, x and y in pixels of this image; NaN for an unknown point. (0, 0)
    is the outer corner of the first pixel.

    Raises MtlError if a map or points have another shape or dtype. In `Dataset.decode`, this counts
    as a bad file.
    """

    image: np.ndarray
    maps: Mapping[str, np.ndarray] = field(factory=dict)
    points: Mapping[str, np.ndarray] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        _check_image(self.image)
        for name, pixels in self.maps.items():
            _check_map(name, pixels, self.image)
        for name, points in self.points.items():
            _check_points(name, points)


def _check_image(image: object) -> None:
    is_image = (
        isinstance(image, np.ndarray)
        and image.ndim == 3
        and image.shape[2] == 3
        and image.dtype == np.uint8
        and image.size > 0
    )
    if not is_image:
        raise SampleError(f"an image must be (H, W, 3) uint8; got {_description(image)}")


def _check_map(name: str, pixels: object, image: np.ndarray) -> None:
    h, w = image.shape[:2]
    if not isinstance(pixels, np.ndarray) or pixels.ndim not in (2, 3):
        raise SampleError(
            f"the map {name!r} must be (H, W) or (H, W, C); got {_description(pixels)}"
        )
    if pixels.shape[:2] != (h, w):
        raise SampleError(
            f"the map {name!r} is {pixels.shape[1]} x {pixels.shape[0]} pixels, its image is "
            f"{w} x {h}; expected the same size"
        )
    if not is_map_dtype(pixels.dtype):
        raise SampleError(
            f"the map {name!r} is {pixels.dtype}; expected floats or one of {', '.join(MAP_DTYPES)}"
        )


def _check_points(name: str, points: object) -> None:
    is_points = (
        isinstance(points, np.ndarray)
        and points.ndim == 2
        and points.shape[1] == 2
        and points.dtype.kind == "f"
    )
    if not is_points:
        raise SampleError(
            f"the points {name!r} must be (K, 2) float, x and y; got {_description(points)}"
        )


def _description(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return type(value).__name__


@frozen(eq=False)
class Skipped:
    """The samples that a dataset left out while it built its index.

    names: reason -> names of samples. They are reported once, and count towards `max_bad`.
    notes: reason -> number of samples, for what is not a defect of the files: a rule of the
    benchmark, or samples that stay although one of their labels is missing. They are reported
    once, and count neither towards `max_bad` nor in `len`.
    """

    names: dict[str, list[str]] = field(factory=dict)
    notes: dict[str, int] = field(factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Record one sample that was left out."""
        self.names.setdefault(reason, []).append(name)

    def note(self, reason: str, number: int = 1) -> None:
        """Add `number` samples to a note."""
        if number:
            self.notes[reason] = self.notes.get(reason, 0) + number

    def __len__(self) -> int:
        """Return the number of samples that were left out."""
        return sum(len(names) for names in self.names.values())


@frozen(eq=False)
class MapColumn:
    """Declaration of one map in an `Index` of N samples.

    present: (N,) bool, samples that have the map.
    dtype: of the decoded map. Floats of any width become float32.
    channels: C of a map (H, W, C); None for a map (H, W).
    """

    present: np.ndarray
    dtype: np.dtype = field(converter=np.dtype)
    channels: int | None = None


@frozen(eq=False)
class PointColumn:
    """Declaration of one kind of points in an `Index` of N samples.

    present: (N,) bool, samples that have the points.
    count: K, the number of points per sample. Unknown points are NaN.
    """

    present: np.ndarray
    count: int


@frozen(eq=False)
class Index:
    """What a dataset knows about its N samples without decoding an image.

    keys: (N,) strings, unique and stable: a path below the root, or a sample number. They name
    samples in messages and fingerprints.
    annotations: labels by name: (N,) strings, "" if missing, or (N, ...) float, NaN if missing.
    split: (N,) strings such as "train" and "test". None if there are no official splits.
    group: (N,) strings. Samples of one group stay in one split (a person, a mirrored copy). A
    sample with the group "" is a group of its own.
    attributes: (N,) strings by name, for metrics of subgroups.
    skipped: the samples that were left out.
    maps: name -> `MapColumn`, which samples have the map. `Dataset.decode` returns exactly these.
    points: name -> `PointColumn`, the same for points. Annotations, maps and points need distinct
    names.

    Each column may be a numpy array, `Categories`, or an Arrow array; null is a missing value. The
    index converts strings to `Categories`, and numbers to numpy arrays. Keys become one compact
    buffer (`Texts`) that compares and indexes like a numpy array of strings. `index.keys[i]` is a
    str.
    """

    keys: Texts = field(converter=as_keys)
    annotations: dict[str, Column] = field(converter=as_columns)
    split: Categories | None = field(default=None, converter=optional(as_column))
    group: Categories | None = field(default=None, converter=optional(as_column))
    attributes: dict[str, Categories] = field(factory=dict, converter=as_columns)
    skipped: Skipped = field(factory=Skipped)
    maps: dict[str, MapColumn] = field(factory=dict)
    points: dict[str, PointColumn] = field(factory=dict)

    def __len__(self) -> int:
        """Return N."""
        return len(self.keys)

    def label_digest(self) -> str:
        """Return a digest of the contents of maps and points, "" if the index does not know them.

        It is a part of the fingerprint, so that a run notices changed points. An index that holds
        the points, or the paths of the maps, overrides it.
        """
        return ""


class Dataset(Component):
    """A labeled set of images. Several threads may call its methods at once."""

    kind = "dataset"

    @abstractmethod
    def index(self) -> Index:
        """Return all samples with their annotations.

        Raises MtlError if the root folder or a required file is missing.
        """

    @abstractmethod
    def decode(self, index: Index, i: int) -> Sample:
        """Return sample i: its image, (H, W, 3) uint8 RGB, and the maps and points that it has.

        Maps and points must match what the index declares for this sample: presence, dtype,
        channels and count. They refer to the pixels of the returned image: if you crop the image,
        crop its maps and move its points.

        Raises MtlError if the image, a map or points can't be read.
        """
