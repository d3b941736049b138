"""A dataset on the harness: its index, some of its samples, and what lies on the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ...contracts import Index
from ..kit import Skip, require
from ..subject import Subject

LOOKED_AT = 6
"""Samples whose images are decoded."""
LARGEST = 16 * 2**20
"""Bytes of a data set that is copied, so that its copy can be spoiled."""


class DatasetSubject(Subject):
    """A dataset on the harness."""

    @cached_property
    def index(self) -> Index:
        index: Index = self.component.index()
        return index

    @cached_property
    def samples(self) -> list[int]:
        """The first sample, the last, and some between."""
        return sorted({int(sample) for sample in np.linspace(0, len(self.index) - 1, LOOKED_AT)})

    def decode(self, sample: int, component: Any = None, index: Index | None = None) -> np.ndarray:
        image: np.ndarray = (component or self.component).decode(index or self.index, sample)
        return image

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The fields that name a file or a folder."""
        values = {
            name: getattr(self.component, name) for name in attrs.fields_dict(type(self.component))
        }
        return {name: value for name, value in values.items() if isinstance(value, Path)}

    def require_files(self) -> None:
        if not self.paths:
            raise Skip("no field names a file or a folder")

    @contextmanager
    def copied(self) -> Iterator[tuple[Any, list[Path]]]:
        """The dataset on a copy of its files, which may be spoiled. Skips where they are large."""
        self.require_files()
        if sum(file.stat().st_size for file in self.files()) > LARGEST:
            raise Skip(
                f"its files hold more than {LARGEST // 2**20} MiB: give a small copy of the set to check this"
            )
        with tempfile.TemporaryDirectory() as folder:
            moved = {
                name: Path(folder) / name / path.name
                for name, path in self.paths.items()
                if path.exists()
            }
            for name, copy in moved.items():
                copy.parent.mkdir()
                kept = self.paths[name]
                shutil.copytree(kept, copy) if kept.is_dir() else shutil.copy2(kept, copy)
            yield (
                attrs.evolve(self.component, **moved),
                [f for f in Path(folder).rglob("*") if f.is_file()],
            )

    def files(self) -> list[Path]:
        """Every file below the paths."""
        found = [path.rglob("*") if path.is_dir() else [path] for path in self.paths.values()]
        return [file for files in found for file in files if file.is_file()]

    def on_disk(self) -> dict[str, tuple[int, int]]:
        """Every file and folder below the paths: size and time of its last change."""
        found = [[path, *path.rglob("*")] for path in self.paths.values() if path.exists()]
        return {
            str(p): (p.stat().st_size if p.is_file() else 0, p.stat().st_mtime_ns)
            for paths in found
            for p in paths
        }


def columns(index: Index) -> dict[str, np.ndarray]:
    """Everything that an index says of its samples, by name."""
    found = {f"annotation {name!r}": values for name, values in index.annotations.items()}
    found |= {f"attribute {name!r}": values for name, values in index.attributes.items()}
    return found | {
        k: v for k, v in (("split", index.split), ("group", index.group)) if v is not None
    }


def require_image(image: Any, sample: int) -> None:
    require(isinstance(image, np.ndarray), f"sample {sample} decodes to {type(image).__name__}")
    require(image.dtype == np.uint8, f"sample {sample} decodes to {image.dtype}")
    shape = image.shape
    require(
        len(shape) == 3 and shape[2] == 3 and min(shape) > 0,
        f"sample {sample} decodes to the shape {shape}",
    )
    require(image.flags.c_contiguous, f"sample {sample} decodes to an array that is not contiguous")
