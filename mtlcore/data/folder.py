"""`image_folder`: a user's own images, one folder a class; the folder's name is the label.

Two layouts: `root / <class> / *`, which has no official split, and `root / <split> / <class> / *`, where the folders of
the first level are train, val (or valid, validation) and test. Images may lie in folders below that of their class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from attrs import frozen

from ..contracts import Dataset, Index, Skipped
from ..errors import MtlError
from .images import read_image

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
SPLITS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

_Row = tuple[str, str, str]  # key, label, split


@frozen
class ImageFolder(Dataset):
    """One folder a class.

    root: the folder that holds the class folders, or those of the splits. annotation: what the labels are called; ""
    where there are none: then every image, at any depth, is a sample without a label.
    The first level is read as splits where all of its folders, or one called train, bear the name of a split. A "val"
    folder is the run's validation split: nothing is then cut from train.
    """

    root: Path
    annotation: str = "label"

    def index(self) -> Index:
        if not self.root.is_dir():
            raise MtlError(
                f"image_folder: {self.root} is no folder; expected one that holds a folder for each class"
            )
        skipped = Skipped()
        if not self.annotation:
            return Index(
                np.array(list(_images(self.root, "", skipped)), dtype=str), {}, skipped=skipped
            )
        folders = _folders(self.root, "", skipped)
        has_splits = _are_splits(folders)
        samples = (
            _split_samples(folders, skipped)
            if has_splits
            else list(_class_samples(folders, "", "", skipped))
        )
        keys, labels, splits = (
            np.array([sample[i] for sample in samples], dtype=str) for i in range(3)
        )
        return Index(
            keys, {self.annotation: labels}, split=splits if has_splits else None, skipped=skipped
        )

    def decode(self, index: Index, sample: int) -> np.ndarray:
        return read_image(str(index.keys[sample]), self.root)


def _are_splits(folders: list[os.DirEntry[str]]) -> bool:
    names = [folder.name.lower() for folder in folders]
    return "train" in names or (bool(names) and all(name in SPLITS for name in names))


def _split_samples(folders: list[os.DirEntry[str]], skipped: Skipped) -> list[_Row]:
    samples: list[_Row] = []
    for folder in folders:
        split = SPLITS.get(folder.name.lower())
        if split is None:
            skipped.add(
                f"no split, beside a folder called train (known: {', '.join(SPLITS)})", folder.name
            )
            continue
        below = f"{folder.name}/"
        samples += _class_samples(_folders(folder.path, below, skipped), below, split, skipped)
    return samples


def _class_samples(
    folders: list[os.DirEntry[str]], below: str, split: str, skipped: Skipped
) -> Iterator[_Row]:
    for folder in folders:
        name = below + folder.name
        images = list(_images(folder.path, f"{name}/", skipped))
        if not images:
            skipped.add("a class folder without images", name)
        for key in images:
            yield key, folder.name, split


def _images(path: str | Path, below: str, skipped: Skipped) -> Iterator[str]:
    """The keys of all images in a folder and below it; links to folders are not followed there, since they may circle."""
    for entry in _entries(path):
        key = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _images(entry.path, f"{key}/", skipped)
        elif entry.name.lower().endswith(IMAGES):
            yield key
        else:
            skipped.add(f"not one of {', '.join(IMAGES)}", key)


def _folders(path: str | Path, below: str, skipped: Skipped) -> list[os.DirEntry[str]]:
    """The folders in a folder; files beside them are counted."""
    entries = _entries(path)
    for entry in entries:
        if not entry.is_dir():
            skipped.add("not in a class folder", below + entry.name)
    return [entry for entry in entries if entry.is_dir()]


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, hidden entries left out, by name."""
    try:
        with os.scandir(path) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise MtlError(f"image_folder: {path} can't be listed: {error.strerror}") from error
