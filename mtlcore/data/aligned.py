"""Maps and points of a sample: what its index declares, and how they follow the image's crop.

An image is cropped to the largest central rectangle with the shape of the cache, and shrunk to its
size. Its maps and points follow: each pixel of a cached map is the NEAREST pixel of the original,
and points move by the same scaling. Maps are never interpolated here, whatever they hold: classes
would become other classes, normals shorter, and depth a place between two objects. Missing pixels
(NaN) stay apart, too.
"""

from __future__ import annotations

import numpy as np

from ..contracts import Dataset, Index, MapColumn, PointColumn, Sample, SampleError
from ..errors import MtlError

Size = tuple[int, int]
"""Height and width, in pixels."""


def decode_sample(dataset: Dataset, index: Index, i: int) -> Sample:
    """Decode sample i, and compare it with what the index declares.

    Raises MtlError if it can't be read, or if a map or points differ from the index: then the
    number of labels, which is counted before anything is decoded, would be wrong.
    """
    try:
        sample = dataset.decode(index, i)
    except SampleError as error:
        raise MtlError(f"{index.keys[i]}: {error}") from error
    if not isinstance(sample, Sample):
        raise MtlError(
            f"{index.keys[i]}: {type(dataset).__name__}.decode returns "
            f"{type(sample).__name__}; expected mtlcore.Sample(image)"
        )
    if index.maps or index.points or sample.maps or sample.points:
        _check_declared(sample, index, i)
    return sample


def columns_of(index: Index) -> dict[str, MapColumn | PointColumn]:
    """Return the maps and the points of an index by name."""
    return {**index.maps, **index.points}


def _check_declared(sample: Sample, index: Index, i: int) -> None:
    """Raise MtlError with the sample's key if its maps or points differ from the index."""
    key = str(index.keys[i])
    for kind, columns, found in (
        ("map", index.maps, sample.maps),
        ("points", index.points, sample.points),
    ):
        declared = {name for name, column in columns.items() if column.present[i]}
        for name in sorted(declared ^ set(found)):
            has, lacks = ("index", "decoded sample") if name in declared else ("sample", "index")
            raise MtlError(f"{key}: its {has} has the {kind} {name!r}, its {lacks} does not")
    for name, pixels in sample.maps.items():
        _check_map(key, name, pixels, index.maps[name])
    for name, points in sample.points.items():
        count = index.points[name].count
        if len(points) != count:
            raise MtlError(
                f"{key}: it has {len(points)} points {name!r}; its index declares {count}"
            )


def _check_map(key: str, name: str, pixels: np.ndarray, column: MapColumn) -> None:
    channels = pixels.shape[2] if pixels.ndim == 3 else None
    if channels != column.channels:
        raise MtlError(
            f"{key}: the map {name!r} has the shape {pixels.shape}; its index declares "
            f"channels = {column.channels}"
        )
    if pixels.dtype != column.dtype:
        raise MtlError(
            f"{key}: the map {name!r} is {pixels.dtype}; its index declares {column.dtype}"
        )


# ------------------------------------------------------------ crop and cache size


def crop_box(old: Size, new: Size) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the part of an image that the cache shows.

    It is the largest central rectangle with the shape of `new`, in whole pixels.
    """
    height, width = old
    new_height, new_width = new
    if height * new_width > width * new_height:
        height = max(1, round(width * new_height / new_width))
    else:
        width = max(1, round(height * new_width / new_height))
    return (old[0] - height) // 2, (old[1] - width) // 2, height, width


def nearest_pixels(old: int, new: int) -> np.ndarray:
    """Return for each of `new` pixels the nearest of `old` pixels along one axis: (new,) int64."""
    centers = (np.arange(new) + 0.5) * old / new
    return np.minimum(centers.astype(np.int64), old - 1)


def fit_map(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Crop and resize a map (H, W) or (H, W, C) as its image: -> (h, w) or (C, h, w), a copy."""
    top, left, height, width = crop_box((pixels.shape[0], pixels.shape[1]), size)
    rows = top + nearest_pixels(height, size[0])
    columns = left + nearest_pixels(width, size[1])
    picked = pixels[rows[:, None], columns]
    return picked if picked.ndim == 2 else np.moveaxis(picked, 2, 0)


def fit_points(points: np.ndarray, old: Size, size: Size) -> np.ndarray:
    """Move points (K, 2) as an image of the size `old` is cropped and resized. -> float32."""
    top, left, height, width = crop_box(old, size)
    scale = np.array([size[1] / width, size[0] / height])
    return ((points - [left, top]) * scale).astype(np.float32)
