"""The harness of a dataset: its index, some of its samples, and its files."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ...contracts import Column, Dataset, Index, Sample
from ...data.aligned import columns_of
from ..requirements import Skip, require
from ..subject import Subject

DECODED = 6
"""The number of samples whose images are decoded."""
LARGEST = 16 * 2**20
"""Bytes. Larger datasets are neither copied nor hashed."""
MOST_FILES = 10_000
"""A folder with more files is not copied."""


class DatasetSubject(Subject[Dataset]):
    """A dataset in the harness."""

    @cached_property
    def index(self) -> Index:
        return self.component.index()

    @cached_property
    def samples(self) -> list[int]:
        """The first sample, the last one, some between, and one with each map and points."""
        spread = np.linspace(0, len(self.index) - 1, DECODED)
        found = {int(sample) for sample in spread}
        for column in columns_of(self.index).values():
            found.update(np.flatnonzero(column.present)[:1].tolist())
        return sorted(found)

    def decode(
        self, sample: int, component: Dataset | None = None, index: Index | None = None
    ) -> Sample:
        return (component or self.component).decode(index or self.index, sample)

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The fields that name a file or a folder."""
        found = {}
        component: Any = self.component
        for name in attrs.fields_dict(type(component)):
            value = getattr(component, name)
            if isinstance(value, Path):
                found[name] = value
        return found

    def at(self, **paths: Path) -> Dataset:
        """The dataset with other paths."""
        component: Any = self.component
        moved: Dataset = attrs.evolve(component, **paths)
        return moved

    @property
    def files(self) -> list[Path]:
        """Every file below the paths."""
        return [path for path in self._entries() if path.is_file()]

    @property
    def is_large(self) -> bool:
        return sum(file.stat().st_size for file in self.files) > LARGEST

    def require_files(self) -> None:
        if not self.paths:
            raise Skip("no field names a file or a folder")

    @contextmanager
    def copied(self) -> Iterator[tuple[Dataset, list[Path]]]:
        """The dataset on a copy of its files, which a check may damage; and these files.

        A table is copied with its folder, which may hold its images. Skips if this is large.
        """
        self.require_files()
        paths = {name: path.resolve() for name, path in self.paths.items() if path.exists()}
        folders = {path if path.is_dir() else path.parent for path in paths.values()}
        if not all(map(_is_small, folders)):
            limit = f"{LARGEST // 2**20} MiB or {MOST_FILES} files"
            raise Skip(f"its folder has over {limit}: check a small copy of the dataset instead")
        with tempfile.TemporaryDirectory() as place:
            for folder in folders:
                _copy(folder, _inside(place, folder))
            copies = {name: _inside(place, path) for name, path in paths.items()}
            yield self.at(**copies), [file for file in Path(place).rglob("*") if file.is_file()]

    def content(self) -> dict[Path, tuple[int, str]]:
        """Every file and folder below the paths: its size, and the hash of a file.

        Large datasets are not hashed. An inode number then shows that a file was replaced.
        """
        large = self.is_large
        found = {}
        for path in self._entries():
            status = path.stat()
            if path.is_dir():
                found[path] = 0, ""
            elif large:
                found[path] = status.st_size, str(status.st_ino)
            else:
                found[path] = status.st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def _entries(self) -> list[Path]:
        entries: list[Path] = []
        for path in self.paths.values():
            if path.exists():
                entries += [path, *path.rglob("*")]
        return entries


def columns(index: Index) -> dict[str, Column]:
    """All columns of an index by name."""
    found: dict[str, Column] = {}
    found |= {f"annotation {name!r}": values for name, values in index.annotations.items()}
    found |= {f"attribute {name!r}": values for name, values in index.attributes.items()}
    for name, column in columns_of(index).items():
        found[f"presence of {name!r}"] = column.present
    for name, values in (("split", index.split), ("group", index.group)):
        if values is not None:
            found[name] = values
    return found


def same(one: Sample, other: Sample) -> bool:
    """Whether two samples have equal images, maps and points."""
    a, b = _arrays(one), _arrays(other)
    if a.keys() != b.keys():
        return False
    return all(np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a)


def copied(sample: Sample) -> Sample:
    """A sample with copies of all its arrays."""
    return copy.deepcopy(sample)


def _arrays(sample: Sample) -> dict[str, np.ndarray]:
    found = {"image": sample.image}
    found |= {f"map {name!r}": pixels for name, pixels in sample.maps.items()}
    found |= {f"points {name!r}": points for name, points in sample.points.items()}
    return found


def invert(sample: Sample) -> None:
    """Change every array of a sample in place, unless it is read-only."""
    for array in _arrays(sample).values():
        if array.flags.writeable:
            array[:] = ~array if array.dtype.kind in "bu" else -1 - array


def require_sample(decoded: object, sample: int) -> None:
    """Require a Sample whose image is a contiguous (H, W, 3) uint8 array."""
    found = type(decoded).__name__
    require(isinstance(decoded, Sample), f"sample {sample} decodes to {found}")
    assert isinstance(decoded, Sample)
    require_image(decoded.image, sample)


def require_image(image: object, sample: int) -> None:
    """Require a contiguous (H, W, 3) uint8 array."""
    what = f"sample {sample} decodes to"
    require(isinstance(image, np.ndarray), f"{what} {type(image).__name__}")
    assert isinstance(image, np.ndarray)
    require(image.dtype == np.uint8, f"{what} {image.dtype}")
    shape = image.shape
    is_rgb = len(shape) == 3 and shape[2] == 3 and min(shape) > 0
    require(is_rgb, f"{what} the shape {shape}; expected (H, W, 3)")
    require(image.flags.c_contiguous, f"{what} an array that is not contiguous")


def _is_small(folder: Path) -> bool:
    """Whether a folder may be copied, with what its links lead to. A large one is not read on."""
    files = total = 0
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            file = Path(root, name)
            files, total = files + 1, total + (file.stat().st_size if file.is_file() else 0)
            if total > LARGEST or files > MOST_FILES:
                return False
    return True


def _copy(folder: Path, target: Path) -> None:
    """Copy a folder. Skips if a part of it can't be copied, such as a link that leads nowhere."""
    try:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    except OSError as error:  # shutil.Error is one
        raise Skip(f"its folder can't be copied: {error}") from error


def _inside(place: str, path: Path) -> Path:
    """An absolute path below another folder. Copies keep their places relative to each other."""
    return Path(place, *path.parts[1:])
