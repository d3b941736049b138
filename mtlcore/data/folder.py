"""The dataset `image_folder`: a user's own images, with one folder for each class.

The name of the folder is the label. There are two layouts:

- `root / <class> / *`, without an official split;
- `root / <split> / <class> / *`. The splits are train, val and test, by any of the names in
  `split_names`, such as `Training` and `Validation`.

Images may be at any depth below the folder of their class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from attrs import frozen

from ..contracts import Categories, Dataset, Index, Sample, Skipped
from ..errors import MtlError
from ..files import is_folder
from .images import read_image
from .split_names import SPLIT_NAMES, split_name

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class _Sample(NamedTuple):
    key: str
    label: str
    split: str


@frozen
class ImageFolder(Dataset):
    """One folder for each class.

    root: the folder that holds the class folders, or the split folders.
    annotation: the name of the labels; "" if there are none. Then every image at any depth is a
    sample without a label.

    The first level is read as splits if all of its folders have the name of a split, or if one of
    them is called train. So it is if folders such as `Training` and `Validation`, without images
    directly in them, are beside others. The others are reported. A "val" folder becomes the
    validation split of the run, and nothing is cut from train.
    """

    root: Path
    annotation: str = "label"

    def index(self) -> Index:
        if not is_folder(self.root):
            holds = "a folder for each class" if self.annotation else "images, at any depth"
            raise MtlError(
                f"image_folder: root = {self.root} is not a folder; expected one that holds {holds}"
            )
        skipped = Skipped()
        if not self.annotation:
            images = list(images_below(self.root, "", skipped))
            return Index(np.array(images, dtype=object), {}, skipped=skipped)

        folders = _folders(self.root, "", skipped)
        has_splits = _are_splits(folders)
        if has_splits:
            samples = _split_samples(folders, skipped)
        else:
            samples = list(_class_samples(folders, "", "", skipped))
        keys = np.array([sample.key for sample in samples], dtype=object)
        labels = Categories.of(sample.label for sample in samples)
        splits: Categories | None = None
        if has_splits:
            splits = Categories.of(sample.split for sample in samples)
        return Index(
            keys,
            annotations={self.annotation: labels},
            split=splits,
            skipped=skipped,
        )

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(read_image(str(index.keys[i]), self.root))


def split_folders(root: Path) -> set[str]:
    """Return the splits that the folders in `root` are, by the rule of `ImageFolder`.

    Empty if they are classes. Raises MtlError if the folder can't be listed.
    """
    folders = _folders(root, "", Skipped())
    if not _are_splits(folders):
        return set()
    splits = {split_name(folder.name) for folder in folders}
    return {split for split in splits if split}


def _are_splits(folders: list[os.DirEntry[str]]) -> bool:
    if any(folder.name.lower() == "train" for folder in folders):
        return True
    splits = {split_name(folder.name) for folder in folders}
    if None not in splits:
        return bool(splits)
    # Among other folders, `training` and `testing` may be classes: then they hold images.
    named = [folder for folder in folders if split_name(folder.name)]
    return {"train"} < splits - {None} and not any(map(_holds_images, named))


def _holds_images(folder: os.DirEntry[str]) -> bool:
    return any(entry.name.lower().endswith(IMAGES) for entry in _entries(folder.path))


def _split_samples(folders: list[os.DirEntry[str]], skipped: Skipped) -> list[_Sample]:
    """Return the samples of split folders."""
    samples: list[_Sample] = []
    for folder in folders:
        split = split_name(folder.name)
        if split is None:
            known = ", ".join(SPLIT_NAMES)
            skipped.add(f"no split, beside a folder that is one (known: {known})", folder.name)
            continue
        prefix = f"{folder.name}/"
        class_folders = _folders(folder.path, prefix, skipped)
        samples += _class_samples(class_folders, prefix, split, skipped)
    return samples


def _class_samples(
    folders: list[os.DirEntry[str]],
    prefix: str,
    split: str,
    skipped: Skipped,
) -> Iterator[_Sample]:
    """Yield the samples of class folders. prefix: what their keys start with."""
    for folder in folders:
        name = prefix + folder.name
        images = list(images_below(folder.path, f"{name}/", skipped))
        if not images:
            skipped.add("a class folder without images", name)
        # The label of a name that is not UTF-8 is text, such as "caf\\xe9".
        label = os.fsencode(folder.name).decode("utf-8", "backslashreplace")
        for key in images:
            yield _Sample(key, label, split)


def images_below(
    path: str | Path,
    prefix: str,
    skipped: Skipped,
) -> Iterator[str]:
    """Yield the keys of all images in a folder, at any depth.

    Links to folders are not followed, because they may lead in a circle.
    """
    for entry in _entries(path):
        key = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from images_below(entry.path, f"{key}/", skipped)
        elif entry.name.lower().endswith(IMAGES):
            yield key
        else:
            skipped.add(f"not one of {', '.join(IMAGES)}", key)


def _folders(
    path: str | Path,
    prefix: str,
    skipped: Skipped,
) -> list[os.DirEntry[str]]:
    """Return the folders in a folder. Files beside them are skipped."""
    entries = _entries(path)
    for entry in entries:
        if not entry.is_dir():
            skipped.add("not in a class folder", prefix + entry.name)
    return [entry for entry in entries if entry.is_dir()]


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones.

    Raises MtlError if the folder can't be listed.
    """
    try:
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise MtlError(f"image_folder: {path} can't be listed: {error.strerror}") from error
    return sorted(visible, key=lambda entry: entry.name)
