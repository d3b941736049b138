"""Maps and points of a sample: check them against the index, crop and resize them.

An image is cropped to the largest central rectangle with the aspect ratio of the cache, and shrunk
to its size. Its points are scaled with it, and its maps are resized by NEAREST neighbor.
Interpolation would give wrong values: other class ids, shorter normals, depths between two objects.
It would also spread missing pixels (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from ..contracts import Dataset, Index, MapColumn, PointColumn, Sample, SampleError
from ..contracts.dataset import MAP_DTYPES, is_map_dtype
from ..errors import MtlError
from ..image_size import central_box

Size = tuple[int, int]
"""Height and width, in pixels."""

Faults = Mapping[str, Mapping[str, Callable[[np.ndarray, Size], str | None]]]
"""Name of a map or points -> task label -> its `AlignedTask.fault`."""


def decode_sample(dataset: Dataset, index: Index, i: int, faults: Faults | None = None) -> Sample:
    """Decode sample i, and compare it with what the index declares.

    faults: checks of its maps and points.

    Raises MtlError if it can't be read, if a map or points differ from the index, or if a task
    can't use them. Labels are counted from the index before anything is decoded, so the counts
    would be wrong.
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
    if faults:
        _refuse_faults(sample, faults, str(index.keys[i]))
    return sample


def _refuse_faults(sample: Sample, faults: Faults, key: str) -> None:
    """Raise MtlError if a task can't use a map or the points of a sample. key: names it."""
    height, width = sample.image.shape[:2]
    for name, label in {**sample.maps, **sample.points}.items():
        for task, fault in faults.get(name, {}).items():
            found = fault(label, (height, width))
            if found is not None:
                raise MtlError(f"{key}: task.{task}: {found}")


def columns_of(index: Index) -> dict[str, MapColumn | PointColumn]:
    """Return the maps and the points of an index by name."""
    return {**index.maps, **index.points}


def check_columns(label: str, index: Index) -> None:
    """Raise MtlError if the maps and points that an index declares break the contract."""
    n = len(index)
    names = [*index.annotations, *index.maps, *index.points]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise MtlError(
            f"data.{label}: {repeated[0]!r} is the name of several labels; expected distinct "
            "names for annotations, maps and points"
        )
    for name, column in columns_of(index).items():
        present = column.present
        if not isinstance(present, np.ndarray) or present.dtype != bool or present.shape != (n,):
            raise MtlError(
                f"data.{label}: `present` of {name!r} must be ({n},) bool, one value per key"
            )
    for name, of_map in index.maps.items():
        if not is_map_dtype(of_map.dtype):
            raise MtlError(
                f"data.{label}: the map {name!r} is {of_map.dtype}; expected floats or one of "
                f"{', '.join(MAP_DTYPES)}"
            )


def _check_declared(sample: Sample, index: Index, i: int) -> None:
    """Raise MtlError with the sample's key if its maps or points differ from the index."""
    key = str(index.keys[i])
    for kind, columns, found in (
        ("map", index.maps, sample.maps),
        ("points", index.points, sample.points),
    ):
        declared = {name for name, column in columns.items() if column.present[i]}
        for name in sorted(declared ^ set(found)):
            has, lacks = "decoded sample", "index"
            if name in declared:
                has, lacks = lacks, has
            raise MtlError(f"{key}: the {has} has the {kind} {name!r}, the {lacks} does not")
    for name, pixels in sample.maps.items():
        _check_map(key, name, pixels, index.maps[name])
    for name, points in sample.points.items():
        count = index.points[name].count
        if len(points) != count:
            raise MtlError(
                f"{key}: it has {len(points)} points {name!r}; the index declares {count}"
            )


def _check_map(key: str, name: str, pixels: np.ndarray, column: MapColumn) -> None:
    channels = pixels.shape[2] if pixels.ndim == 3 else None
    if channels != column.channels:
        raise MtlError(
            f"{key}: the map {name!r} has the shape {pixels.shape}; the index declares "
            f"channels = {column.channels}"
        )
    if pixels.dtype != column.dtype:
        raise MtlError(
            f"{key}: the map {name!r} is {pixels.dtype}; the index declares {column.dtype}"
        )


# ------------------------------------------------------------ crop and cache size


def nearest_pixels(old: int, new: int) -> np.ndarray:
    """Return the nearest of `old` pixels for each of `new` pixels along one axis, (new,) int64."""
    centers = (np.arange(new) + 0.5) * old / new
    return np.minimum(centers.astype(np.int64), old - 1)


def fit_map(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Crop and resize a map (H, W) or (H, W, C) like its image. -> a copy, (h, w) or (C, h, w)."""
    top, left, height, width = central_box((pixels.shape[0], pixels.shape[1]), size)
    rows = top + nearest_pixels(height, size[0])
    columns = left + nearest_pixels(width, size[1])
    picked = pixels[rows[:, None], columns]
    return picked if picked.ndim == 2 else np.moveaxis(picked, 2, 0)


def fit_points(points: np.ndarray, old: Size, size: Size) -> np.ndarray:
    """Move points (K, 2) like an image of size `old` that is cropped and resized. -> float32."""
    top, left, height, width = central_box(old, size)
    scale = np.array([size[1] / width, size[0] / height])
    return ((points - [left, top]) * scale).astype(np.float32)


# ------------------------------------------------------------ columns of a run


@frozen(eq=False)
class LabelColumn:
    """A map or points of the N samples of a run.

    present: (N,) bool, samples whose label is used.
    shape: shape of one label: () for a map (h, w), (C,) for a map (C, h, w), (K, 2) for points.
    dtype: dtype in the cache: integers and bool as decoded, floats as float32.
    """

    present: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype
    is_points: bool

    def subset(self, indices: np.ndarray) -> LabelColumn:
        return evolve(self, present=self.present[indices])

    def n_bytes(self, size: Size) -> int:
        """Return the size in bytes of all labels, for images of this size."""
        return int(self.present.sum()) * math.prod(self.sample_shape(size)) * self.dtype.itemsize

    def sample_shape(self, size: Size) -> tuple[int, ...]:
        return self.shape if self.is_points else (*self.shape, *size)


@frozen(eq=False)
class StoredLabels:
    """One map, or one kind of points, of n samples.

    values: (M, ...), the labels of the M samples that have one.
    row: (n,) int64, the position of each sample in `values`; -1 for samples without it.
    """

    column: LabelColumn
    size: Size
    values: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, column: LabelColumn, size: Size) -> StoredLabels:
        """Return empty labels, to be written: zeros, or NaN for points."""
        number = int(column.present.sum())
        values = np.zeros((number, *column.sample_shape(size)), dtype=column.dtype)
        if column.is_points:
            values[:] = np.nan
        row = np.where(column.present, np.cumsum(column.present) - 1, -1)
        return cls(column, size, values, row)

    def write(self, position: int, name: str, sample: Sample) -> None:
        """Store the label of one decoded sample, cropped and shrunk like its image."""
        row = self.row[position]
        if row < 0:
            return
        if self.column.is_points:
            height, width = sample.image.shape[:2]
            self.values[row] = fit_points(sample.points[name], (height, width), self.size)
        else:
            self.values[row] = fit_map(sample.maps[name], self.size)

    def take(self, indices: np.ndarray) -> Tensor:
        """Return copies of these samples' labels, (n, ...), in a dtype that torch supports."""
        rows = torch.from_numpy(self.row[indices])
        present = rows >= 0
        values = torch.from_numpy(self.values)
        shape = (len(rows), *values.shape[1:])
        fill = torch.nan if self.column.is_points else 0
        found = torch.full(shape, fill, dtype=_BATCH_DTYPES.get(values.dtype, values.dtype))
        found[present] = values.index_select(0, rows[present]).to(found.dtype)
        return found


_BATCH_DTYPES = {torch.uint16: torch.int32, torch.uint32: torch.int64}


def joined_labels(name: str, indexes: Mapping[str, Index]) -> LabelColumn:
    """Return a map or points of all samples of several datasets.

    indexes: dataset label -> its index, in the order of the samples. At least one has the column.
    Raises MtlError if its type, channels or number of points differ between datasets.
    """
    columns = {label: columns_of(index).get(name) for label, index in indexes.items()}
    having = {label: column for label, column in columns.items() if column is not None}
    forms = {label: _form(column) for label, column in having.items()}
    if len(set(forms.values())) > 1:
        kinds = [f"data.{label}: {form}" for label, form in forms.items()]
        raise MtlError(
            f"the datasets disagree on what {name!r} is: {', '.join(kinds)}; "
            "expected the same form in all of them"
        )

    present: list[np.ndarray] = []
    for label, index in indexes.items():
        column = columns[label]
        here = np.zeros(len(index), dtype=bool)
        if column is not None:
            here = column.present
        present.append(here)
    every = np.concatenate(present)

    first = next(iter(having.values()))
    if isinstance(first, PointColumn):
        return LabelColumn(every, (first.count, 2), np.dtype(np.float32), is_points=True)
    dtypes = [column.dtype for column in having.values() if isinstance(column, MapColumn)]
    dtype = np.result_type(*dtypes)
    if dtype.kind == "f":
        return LabelColumn(every, (first.channels or 1,), np.dtype(np.float32), is_points=False)
    shape = () if first.channels is None else (first.channels,)
    return LabelColumn(every, shape, dtype, is_points=False)


def _form(column: MapColumn | PointColumn) -> str:
    """Return the form that a label must have in all datasets, in words."""
    if isinstance(column, PointColumn):
        return f"{column.count} points"
    kind = "floats" if column.dtype.kind == "f" else "integers"
    return f"a map of {kind} with channels = {column.channels}"
