"""The 68 landmarks of 300W-LP and AFLW2000 as points of a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from attrs import evolve

from mtlcore import Index, MtlError, PointColumn, Sample

from ._crops import Crop, read_face_and_points
from ._mat import read_points

NAME, COUNT = "landmarks", 68


def with_points(index: Index) -> Index:
    """Return an index in which each sample has the points "landmarks"."""
    return evolve(index, points={NAME: PointColumn(np.ones(len(index), dtype=bool), COUNT)})


def face_with_points(crop: Crop, root: Path, index: Index, i: int, array: str) -> Sample:
    """Read sample `i`, cropped, with its landmarks. array: their name in the .mat file.

    Raises MtlError if the file has no such landmarks.
    """
    key = str(index.keys[i])
    try:
        points = read_points((root / key).with_suffix(".mat"), array, COUNT)
    except ValueError as error:
        raise MtlError(f"{key}: {error}") from error
    image, moved = read_face_and_points(crop, root, index, i, points)
    return Sample(image, points={NAME: moved})
