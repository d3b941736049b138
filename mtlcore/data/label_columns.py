"""Columns of a table that hold labels of pixels: files of maps, and points.

A map is an image file (PNG, TIFF, BMP, GIF, WEBP) whose pixels are taken as they are, or a numpy
file (.npy). A palette image gives its indices. Points are numbers x y x y ... in one column, as
text, or in several columns.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..contracts import Categories, Skipped
from ..errors import MtlError

if TYPE_CHECKING:
    import pyarrow

# JPEG is missing on purpose: it changes class ids.
FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP")
_BETWEEN = re.compile(r"[\s,;\[\]()]+")


def read_map(data: bytes, name: str) -> np.ndarray:
    """Return the pixels of a map, (H, W) or (H, W, C).

    name: of the file, for messages. Raises MtlError for a file of another format, or a broken one.
    """
    try:
        if data.startswith(b"\x93NUMPY"):
            found = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                found = np.array(image)
    except Exception as error:  # Pillow's readers raise nearly any exception on broken bytes
        if data.startswith(b"\xff\xd8"):
            reason = "JPEG changes class ids"
        else:
            reason = str(error) or type(error).__name__
        raise MtlError(
            f"{name} is not a readable map: {reason}; expected {', '.join(FORMATS)} or .npy"
        ) from error
    return np.asarray(found, dtype=found.dtype.newbyteorder("="))


def points_of(
    name: str,
    columns: Sequence[str],
    cells: Mapping[str, Categories],
    numbers: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return the points of N rows, (N, K, 2) float32, NaN where missing, infinite where wrong.

    name: of the points. columns: one column of lists or texts, or columns x, y, x, y, ....
    cells: column -> its N texts. numbers: column -> its numbers, (N,) or (N, 2K).
    Raises MtlError for an odd number of columns, or a list of an odd length.
    """
    parts: list[np.ndarray] = []
    for column in columns:
        if column in numbers:
            values = numbers[column]
            parts.append(values.reshape(len(values), -1))
        else:
            parts.append(_parsed(cells[column]))
    flat = np.concatenate(parts, 1)
    if flat.shape[1] % 2 or not flat.shape[1]:
        raise MtlError(
            f"points.{name}: {flat.shape[1]} numbers; expected an even number: x, y of each point"
        )
    return flat.reshape(len(flat), -1, 2).astype(np.float32)


def _parsed(cells: Categories) -> np.ndarray:
    """Return the numbers in each cell, (N, D): as many as the first cell with any has."""
    rows = [_numbers(cell) for cell in cells.names.tolist()]
    first = next((row for code in cells.codes.tolist() if (row := rows[code])), [])
    found = np.full((len(rows), max(1, len(first))), np.nan)
    for position, row in enumerate(rows):
        if row:
            found[position] = row if len(row) == len(first) else np.inf
    return np.asarray(found[cells.codes])


def _numbers(cell: str) -> list[float]:
    words = [word for word in _BETWEEN.split(cell) if word]
    try:
        return [float(word) for word in words]
    except ValueError:
        return [np.inf]


def without_wrong_points(
    points: Mapping[str, np.ndarray],
    valid: np.ndarray,
    names: pyarrow.ChunkedArray,
    skipped: Skipped,
) -> None:
    """Make the rows with infinite points invalid, and add them to `skipped`.

    points: name -> (N, K, 2). valid: (N,) bool, changed. names: of the rows.
    """
    for name, values in points.items():
        for row in np.flatnonzero(np.isinf(values).any((1, 2)) & valid).tolist():
            valid[row] = False
            reason = f"not {2 * values.shape[1]} numbers for the points {name!r}"
            skipped.add(reason, names[row].as_py())
