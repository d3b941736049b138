"""The source of a pack: which dataset it was, and whether that has changed since.

At a start on a pack, the source is compared if it is on this machine. The modification times of its
folders and files tell quickly that nothing was added, removed or edited; if they differ, the source
is indexed again and compared by samples and labels. An image that was overwritten in place is not
noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from ...config.component import component
from ...config.write import toml_value
from ...contracts import Categories, Dataset, Index
from ...errors import MtlError
from ..aligned import columns_of
from ..column_bytes import column_bytes
from .manifest import Manifest, Source

MOST_FOLDERS = 10_000  # whose modification times are compared
CHANGED = "differ from the source {where}, which changed later, such as {key}: pack it again"


def source_of(dataset: Dataset, index: Index, plugins: tuple[str, ...]) -> Source:
    """Return the source of a pack, from its dataset and index."""
    return Source(toml_value(dataset), plugins, digest_of(index), index.label_digest())


def digest_of(index: Index) -> str:
    """Return a 128-bit digest of keys, annotations, splits, groups and attributes, in hex."""
    found = hashlib.blake2b(digest_size=16)
    columns: dict[str, Any] = {"key": index.keys, "split": index.split, "group": index.group}
    columns |= {f"annotation {name}": values for name, values in index.annotations.items()}
    columns |= {f"attribute {name}": values for name, values in index.attributes.items()}
    for name in sorted(columns):
        if columns[name] is None:
            continue
        found.update(f"{name} {len(index)}".encode())
        for content in column_bytes(columns[name]):
            found.update(content)
    for name, of_pixels in sorted(columns_of(index).items()):
        found.update(f"present {name}".encode() + of_pixels.present.tobytes())
    return found.hexdigest()


def seen_now(dataset: Dataset) -> dict[str, list[int]]:
    """Return how the files of a dataset look: path -> [size, modification time in ns].

    Folders count with all folders below them, up to `MOST_FOLDERS`, not with the files in them.
    """
    found: dict[str, list[int]] = {}
    for path in _paths(dataset):
        for entry in _folders(path):
            if len(found) >= MOST_FOLDERS:
                return found
            try:
                status = entry.stat()
            except OSError:
                continue
            size = 0 if entry.is_dir() else status.st_size
            found[str(entry)] = [size, status.st_mtime_ns]
    return found


def note_of_change(manifest: Manifest, index: Index) -> tuple[str, int] | None:
    """Return a note and its number of samples if the source of a pack has changed, else None.

    index: of the pack. A source that is not on this machine is not compared.
    """
    seen, source = manifest.seen, manifest.plan.source
    if not seen or not any(Path(path).exists() for path in seen):
        return None
    try:
        dataset = _dataset(source)
        if seen_now(dataset) == seen:
            return None
        now = dataset.index()
    except MtlError:
        return None  # the source is not complete here, or its plugin is absent
    # A pack of an earlier version does not know it.
    same_labels = source.labels in ("", now.label_digest())
    if digest_of(now) == source.digest and same_labels:
        return None
    keys = changed_keys(index, now)
    where = ", ".join(map(str, _paths(dataset)))
    what = "the order of its samples" if same_labels else "its points, or the paths of its maps"
    what = keys[0] if keys else what
    note = CHANGED.format(where=where, key=what)
    return note, max(1, len(keys))


def changed_keys(packed: Index, now: Index) -> list[str]:
    """Return the keys of samples that are new, gone, or have other labels or another split."""
    before, after = _rows(packed), _rows(now)
    new = [key for key, row in after.items() if before.get(key) != row]
    return new + [key for key in before if key not in after]


def _rows(index: Index) -> dict[str, tuple[str, ...]]:
    """Return key -> its labels, split and group as strings."""
    columns: list[list[str]] = []
    for name in sorted(index.annotations):
        values = index.annotations[name]
        texts = values if isinstance(values, Categories) else np.asarray(values).tolist()
        columns.append([str(value) for value in texts])
    for official in (index.split, index.group):
        if official is not None:
            columns.append(official.tolist())
    rows = zip(*columns) if columns else iter([()] * len(index))
    return dict(zip(index.keys, rows))


def _dataset(source: Source) -> Dataset:
    fields = {key: value for key, value in source.table.items() if key != "name"}
    return component("dataset", source.table["name"], source.plugins, **fields)


def _paths(dataset: Dataset) -> list[Path]:
    """Return the files and folders that the fields of a dataset name."""
    found: list[Path] = []
    for field in attrs.fields(type(dataset)):  # type: ignore[arg-type]
        value = getattr(dataset, field.name)
        if isinstance(value, Path):
            found.append(value)
    return found


def _folders(path: Path) -> Iterator[Path]:
    """Yield a path, then the folders below it, level by level, each folder once."""
    waiting, known = deque([path]), {path.resolve()}
    while waiting:
        folder = waiting.popleft()
        yield folder
        for inner in _folders_in(folder):
            place = inner.resolve()
            if place not in known:  # a link may lead back to a folder above
                known.add(place)
                waiting.append(inner)


def _folders_in(path: Path) -> list[Path]:
    """Return the folders in a folder, by name; none if it is a file or can't be listed."""
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [path / name for name in names]
