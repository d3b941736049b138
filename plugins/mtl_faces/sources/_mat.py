"""`.mat` files of 300W-LP and AFLW2000: the pose and the landmarks.

A reader of its own, for numeric arrays of MATLAB's version 5 format alone: scipy's runs beyond its tables on a broken type
code and takes the whole process with it, and it takes more than twice the time for a hundred thousand small files.
Format: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

LIMIT_DEG = 360.0  # beyond a full turn it is no angle: a broken file
LARGEST = 1 << 24  # bytes that one compressed array may unpack to
HEADER = 128
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(
    6, 16
)  # double, single, int8 ... uint64; others are cells, structures, text, sparse


def read_mat(path: Path, points: str) -> tuple[np.ndarray, np.ndarray]:
    """-> pose_deg (3,) as yaw, pitch, roll in degrees, and the landmarks named `points`: (2, P) pixels.

    `Pose_Para` holds pitch, yaw, roll in RADIANS, then a translation and a scale. Raises ValueError, with a reason that
    is the same for all files with that fault, where something is missing or broken.
    """
    found = _load(path, {"Pose_Para", points})
    pose = _array(found, "Pose_Para")
    marks = _array(found, points)
    if pose.size < 3:
        raise ValueError("Pose_Para with less than three numbers")
    pitch, yaw, roll = np.degrees(pose.ravel()[:3])
    pose_deg = np.array([yaw, pitch, roll])
    if not np.isfinite(pose_deg).all() or np.abs(pose_deg).max() > LIMIT_DEG:
        raise ValueError("Pose_Para that holds no angles")
    if (
        marks.ndim != 2
        or marks.shape[0] < 2
        or marks.shape[1] < 2
        or not np.isfinite(marks[:2]).all()
    ):
        raise ValueError(f"{points} that holds no landmarks")
    return pose_deg, marks[:2]


def arrays(data: bytes, names: set[str]) -> dict[str, np.ndarray | None]:
    """The numeric arrays of these names in the bytes of a file; None for one that holds something else.

    Raises ValueError where the bytes are no such file, or a broken one.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("no MATLAB file of version 5")
    found: dict[str, np.ndarray | None] = {}
    for kind, body in _elements(data[HEADER:], order):
        if kind == COMPRESSED:
            kind, body = next(
                _elements(zlib.decompressobj().decompress(body, LARGEST), order), (0, b"")
            )
        if kind == MATRIX:
            name, array = _matrix(body, order)
            if name in names:
                found[name] = array
        if len(found) == len(names):
            break
    return found


def _load(path: Path, names: set[str]) -> dict[str, np.ndarray | None]:
    try:
        return arrays(path.read_bytes(), names)
    except FileNotFoundError as error:
        raise ValueError("an image without a .mat file") from error
    except (OSError, ValueError, struct.error, zlib.error, OverflowError) as error:
        raise ValueError("an unreadable .mat file") from error


def _array(found: dict[str, np.ndarray | None], name: str) -> np.ndarray:
    if name not in found:
        raise ValueError(f"a .mat file without {name}")
    value = found[name]
    if value is None:
        raise ValueError(f"{name} that holds no numbers")
    return value


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """-> (type, bytes) of each data element. Small ones keep their bytes within the tag; long ones are padded to eight."""
    at = 0
    while at < len(data):
        (word,) = struct.unpack_from(f"{order}I", data, at)
        if word >> 16:
            kind, size, start, step = word & 0xFFFF, word >> 16, at + 4, 8
        else:
            kind, (size,), start = word, struct.unpack_from(f"{order}I", data, at + 4), at + 8
            step = 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data) or (step == 8 and start == at + 4 and size > 4):
            raise ValueError("an element that leaves the file")
        yield kind, data[start : start + size]
        at += step


def _matrix(body: bytes, order: str) -> tuple[str, np.ndarray | None]:
    """-> its name and its values (float64), columns first as MATLAB has them."""
    parts = _elements(body, order)
    (_, flags), (_, sizes), (_, name) = (next(parts, (0, b"")) for _ in range(3))
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
    with np.errstate(
        invalid="ignore"
    ):  # broken floats may be NaNs of the kind that the processor complains of
        return label, flat.reshape(shape, order="F").astype(np.float64)
