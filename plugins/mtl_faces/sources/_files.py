"""Helpers of the face dataset readers: listing folders, reading text, arrays from rows."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

import numpy as np

from mtlcore import MtlError, Skipped, nearest, open_file, split_name, text_encoding

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
SHOWN = 3  # names in a note
HEAD_BYTES = 1 << 12  # of a text, which tell its encoding


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


def split_folders(dataset: str, root: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Return the split folders of a root: name of the folder -> split, in the order of `names`.

    names: the names of the folders in the releases -> the split that each one is. One folder is
    read for each split: the first of these names, or if none exists, the first folder with another
    usual name of it, such as `Validation`.
    """
    here = [entry.name for entry in entries(dataset, root) if entry.is_dir()]
    found: dict[str, str] = {}
    for name, split in names.items():
        if name in here and split not in found.values():
            found[name] = split
    for name, split in names.items():
        for folder in here:
            if split not in found.values() and split_name(folder) == split_name(name):
                found[folder] = split
    order = list(names.values())
    return dict(sorted(found.items(), key=lambda item: order.index(item[1])))


def class_images(
    dataset: str, folder: os.DirEntry[str], below: str, classes: Iterable[str], skipped: Skipped
) -> list[str]:
    """Return the keys of the images in one class folder; everything else there is counted.

    below: key of the folder that holds it. classes: the known names, in lower case.
    """
    name = f"{below}/{folder.name}"
    if not folder.is_dir():
        skipped.add("not in a class folder", name)
        return []
    files = [f"{name}/{file.name}" for file in entries(dataset, folder.path)]
    if folder.name.lower() not in classes:
        reason = f"unknown class folder {folder.name!r} ({nearest(folder.name.lower(), classes)})"
        for file in files or [name]:
            skipped.add(reason, file)
        return []
    for file in files:
        if not is_image(file):
            skipped.add(f"not one of {', '.join(IMAGES)}", file)
    return [file for file in files if is_image(file)]


def note_unread_folders(dataset: str, root: Path, read: Collection[str], skipped: Skipped) -> None:
    """Note the folders of a root that the dataset does not read, all in one line."""
    here = [entry.name for entry in entries(dataset, root) if entry.is_dir()]
    unread = [name for name in here if name not in read]
    more = ", ..." if len(unread) > SHOWN else ""
    listed = ", ".join(unread[:SHOWN]) + more
    skipped.note(f"folders not read, since only {', '.join(read)} are: {listed}", len(unread))


def first_file(root: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files that exists below the root."""
    for name in names:
        if (root / name).is_file():
            return root / name
    return None


@contextmanager
def open_text(dataset: str, path: Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8 or UTF-16, whichever it is, with its line breaks unchanged.

    Bytes of no character are kept, as Python keeps them in file names: different names stay
    different, and open the files that they name. Raises MtlError if it can't be read.
    """
    try:
        with open_file(path) as file:
            encoding = text_encoding(file.read(HEAD_BYTES))
            file.seek(0)
            yield TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MtlError(f"{dataset}: {path} can't be read: {reason}") from error


def text_lines(dataset: str, path: Path) -> list[str]:
    """Read the lines of a text file. Raises MtlError if it can't be read."""
    with open_text(dataset, path) as file:
        return file.read().splitlines()


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
