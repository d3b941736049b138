"""What the readers of face data sets share: listing folders, and arrays out of rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mtlcore import MtlError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def entries(source: str, path: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, hidden entries left out, by name. Raises MtlError where it can't be listed."""
    try:
        with os.scandir(path) as found:
            return sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise MtlError(f"{source}: {path} can't be listed: {error.strerror}") from error


def require_folder(source: str, root: Path, expected: str) -> None:
    """Raises MtlError where the root is no folder. expected: what it should hold."""
    if not root.is_dir():
        raise MtlError(f"{source}: {root} is no folder; expected one that holds {expected}")


def first_folder(source: str, root: Path, names: Sequence[str]) -> Path:
    """The first of these sub-folders that exists. Raises MtlError where none does."""
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise MtlError(f"{source}: {root} holds none of the folders {' | '.join(names)}")
    return found


def text_lines(source: str, path: Path) -> list[str]:
    """The lines of a text file, whatever its bytes. Raises MtlError where it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise MtlError(
            f"{source}: {path} can't be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def strings(values: Iterable[str]) -> np.ndarray:
    """(N,) strings, also where there are none."""
    return np.array(list(values), dtype=str)


def emotion_columns(
    rows: Iterable[tuple[str, str, str]],
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Rows of (key, emotion, split) -> the first three fields of an Index."""
    listed = list(rows)
    keys, emotions, splits = (strings(row[i] for row in listed) for i in range(3))
    return keys, {"emotion": emotions}, splits


def floats(values: Iterable[object], width: int | None = None) -> np.ndarray:
    """(N,) float64, or (N, width), also where there are none."""
    found = np.array(list(values), dtype=np.float64)
    return found if width is None else found.reshape(-1, width)
