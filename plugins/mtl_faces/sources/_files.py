"""Helpers of the face dataset readers: listing folders, reading text, arrays from rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mtlcore import MtlError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def entries(dataset: str, path: str | Path) -> list[os.DirEntry[str]]:
    """List a folder by name, without hidden entries. Raises MtlError if it can't be listed."""
    try:
        with os.scandir(path) as found:
            visible = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise MtlError(f"{dataset}: {path} can't be listed: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)


def require_folder(dataset: str, root: Path, expected: str) -> None:
    """Raise MtlError if the root is not a folder. expected: what it should hold."""
    if not root.is_dir():
        raise MtlError(
            f"{dataset}: root = {root} is not a folder; expected a folder with {expected}"
        )


def first_folder(dataset: str, root: Path, names: Sequence[str]) -> Path:
    """Return the first of these sub-folders that exists. Raises MtlError if none does."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise MtlError(f"{dataset}: {root} holds none of the folders {' | '.join(names)}")


def first_file(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files that exists below the root."""
    for name in names:
        if (root / name).is_file():
            return root / name
    return None


def text_lines(dataset: str, path: Path) -> list[str]:
    """Read the lines of a text file, whatever its bytes. Raises MtlError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise MtlError(f"{dataset}: {path} can't be read: {reason}") from error


def is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES)


def strings(values: Iterable[str]) -> np.ndarray:
    """(N,) strings, also for N = 0."""
    return np.array(list(values), dtype=str)


def emotion_columns(
    rows: Iterable[tuple[str, str, str]],
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Rows of (key, emotion, split) -> the first three fields of an Index."""
    listed = list(rows)
    keys = strings(key for key, _, _ in listed)
    emotions = strings(emotion for _, emotion, _ in listed)
    splits = strings(split for _, _, split in listed)
    return keys, {"emotion": emotions}, splits


def floats(values: Iterable[object], width: int | None = None) -> np.ndarray:
    """(N,) or (N, width) float64, also for N = 0."""
    found = np.array(list(values), dtype=np.float64)
    return found if width is None else found.reshape(-1, width)
