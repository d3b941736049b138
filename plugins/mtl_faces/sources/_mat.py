"""`.mat` files of 300W-LP and AFLW2000: the pose and the landmarks.

This is an own reader for numeric arrays of MATLAB's version 5 format. scipy's reader overruns its
tables on a broken type code, which crashes the process. It also takes more than twice the time for
a hundred thousand small files.

Format: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mtlcore import read_file

LIMIT_DEG = 360.0  # an angle beyond a full turn means a broken file
LARGEST = 1 << 24  # bytes that one compressed array may unpack to
HEADER = 128  # bytes
MATRIX, COMPRESSED = 14, 15
TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
# double, single, int8 ... uint64; other classes are cells, structures, text and sparse matrices.
NUMERIC_CLASSES = range(6, 16)

Arrays = dict[str, np.ndarray | None]


def read_mat(path: Path, points: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pose_deg (3,), yaw, pitch, roll, and the landmarks named `points`, (2, P) pixels.

    `Pose_Para` holds pitch, yaw, roll in RADIANS, then a translation and a scale.

    Raises ValueError if something is missing or broken. The reason does not name the file, so that
    equal faults can be counted.
    """
    found = _load(path, {"Pose_Para", points})
    pose = _array(found, "Pose_Para")
    marks = _array(found, points)
    if pose.size < 3:
        raise ValueError("Pose_Para with fewer than three numbers")
    pitch, yaw, roll = np.degrees(pose.ravel()[:3])
    pose_deg = np.array([yaw, pitch, roll])
    if not np.isfinite(pose_deg).all() or np.abs(pose_deg).max() > LIMIT_DEG:
        raise ValueError("Pose_Para that holds no angles")
    if not _are_landmarks(marks):
        raise ValueError(f"{points} that holds no landmarks")
    return pose_deg, marks[:2]


def read_points(path: Path, name: str, count: int) -> np.ndarray:
    """Read the landmarks of this name, (2, count) pixels.

    Raises ValueError if they are missing or broken, or if their number is another.
    """
    marks = _array(_load(path, {name}), name)
    if not _are_landmarks(marks) or marks.shape[1] != count:
        raise ValueError(f"{name} that holds no {count} landmarks: {marks.shape}")
    return marks[:2]


def _are_landmarks(marks: np.ndarray) -> bool:
    """At least two points, with finite x and y."""
    if marks.ndim != 2 or marks.shape[0] < 2 or marks.shape[1] < 2:
        return False
    return bool(np.isfinite(marks[:2]).all())


def arrays(data: bytes, names: set[str]) -> Arrays:
    """Read the numeric arrays of these names from the bytes of a file; None for other content.

    Raises ValueError if the bytes are not such a file, or a broken one.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("not a MATLAB file of version 5")
    found: Arrays = {}
    for kind, body in _elements(data[HEADER:], order):
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(body, LARGEST)
            kind, body = next(_elements(unpacked, order), (0, b""))
        if kind == MATRIX:
            name, array = _matrix(body, order)
            if name in names:
                found[name] = array
        if len(found) == len(names):
            break
    return found


def _load(path: Path, names: set[str]) -> Arrays:
    try:
        return arrays(read_file(path), names)
    except FileNotFoundError as error:
        raise ValueError("an image without a .mat file") from error
    except (OSError, ValueError, struct.error, zlib.error, OverflowError) as error:
        raise ValueError("an unreadable .mat file") from error


def _array(found: Arrays, name: str) -> np.ndarray:
    if name not in found:
        raise ValueError(f"a .mat file without {name}")
    value = found[name]
    if value is None:
        raise ValueError(f"{name} that holds no numbers")
    return value


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield (type, bytes) of each data element.

    A small element holds its bytes within its tag of 8 bytes. A long one is padded to a multiple of
    8, unless it is compressed.
    """
    at = 0
    while at < len(data):
        (word,) = struct.unpack_from(f"{order}I", data, at)
        is_small = word >> 16
        if is_small:
            kind, size = word & 0xFFFF, word >> 16
            start = at + 4
            step = 8
        else:
            kind = word
            (size,) = struct.unpack_from(f"{order}I", data, at + 4)
            start = at + 8
            step = 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data) or (is_small and size > 4):
            raise ValueError("an element that leaves the file")
        yield kind, data[start : start + size]
        at += step


def _matrix(body: bytes, order: str) -> tuple[str, np.ndarray | None]:
    """Return a matrix's name and its values (float64), in MATLAB's column order."""
    parts = _elements(body, order)
    _, flags = next(parts, (0, b""))
    _, sizes = next(parts, (0, b""))
    _, name = next(parts, (0, b""))
    (word,) = struct.unpack_from(f"{order}I", flags)
    label = name.decode("ascii", errors="replace")
    if word & 0xFF not in NUMERIC_CLASSES:
        return label, None
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    kind, values = next(parts, (0, b""))
    if kind not in TYPES or min(shape, default=-1) < 0:
        raise ValueError("a matrix without numbers")
    flat = np.frombuffer(values, dtype=order + TYPES[kind])
    if len(flat) != math.prod(shape):
        raise ValueError("a matrix with too few numbers")
    # Broken floats may be signaling NaNs, for which the conversion would warn.
    with np.errstate(invalid="ignore"):
        return label, flat.reshape(shape, order="F").astype(np.float64)
