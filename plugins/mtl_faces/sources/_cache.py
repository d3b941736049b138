"""Cache indexes between runs, if reading them takes minutes (hundreds of thousands of label files).

Files are in `$XDG_CACHE_HOME/mtlcore/indexes` (default: ~/.cache). A cached index is valid while
these do not change:

- the fields of the dataset,
- the modification times of its folders: adding, removing or renaming a file changes them, rewriting
  one in place does not,
- the code that reads it, so that a corrected table of labels takes effect.

Datasets with fewer than SMALLEST samples are read each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mtlcore import Dataset, Index, Skipped

SMALLEST = 10_000
FORMAT = 2


def cached_index(dataset: Dataset, folders: Iterable[Path], read: Callable[[], Index]) -> Index:
    """Return the cached index, or call `read` and cache its result.

    folders: those whose changes invalidate the cache.
    read: a function of the dataset's own module. The text of that module and of the helpers beside
    this file is part of the key.
    """
    file = _file(dataset, folders, read)
    cached = _load(file)
    if cached is not None:
        return cached
    index = read()
    if len(index) >= SMALLEST:
        # A disk that is full or read-only costs the next run time, and nothing else.
        with contextlib.suppress(OSError):
            _save(file, index)
    return index


def _file(dataset: Dataset, folders: Iterable[Path], read: Callable[[], Index]) -> Path:
    times = [(str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()]
    code = [file.read_bytes() for file in _code(read)]
    key = repr((FORMAT, dataset, times, code)).encode()
    digest = hashlib.blake2b(key, digest_size=16).hexdigest()
    # os.path and not pathlib, which raises if there is no home folder.
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(home) / "mtlcore" / "indexes" / f"{digest}.npz"


def _code(read: Callable[[], Index]) -> list[Path]:
    """The files that determine an index: the reader's own, and the helpers (`_mat.py`, ...)."""
    return [Path(inspect.getfile(read)), *sorted(Path(__file__).parent.glob("_*.py"))]


def _save(file: Path, index: Index) -> None:
    skipped = json.dumps([index.skipped.names, index.skipped.notes])
    # numpy saves neither categories nor strings of any width.
    keys = np.array(index.keys.tolist(), dtype=str)
    arrays = {"keys": keys, "skipped": np.array(skipped)}
    if index.split is not None:
        arrays["split"] = np.asarray(index.split)
    if index.group is not None:
        arrays["group"] = np.asarray(index.group)
    for name, value in index.annotations.items():
        arrays[f"annotation/{name}"] = np.asarray(value)
    for name, value in index.attributes.items():
        arrays[f"attribute/{name}"] = np.asarray(value)
    file.parent.mkdir(parents=True, exist_ok=True)
    # A temporary name, so that another process never reads half a file.
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as out:
        np.savez(out, allow_pickle=False, **arrays)
    part.replace(file)


def _load(file: Path) -> Index | None:
    """Read a cached index; None if it does not exist or is broken."""
    try:
        with np.load(file, allow_pickle=False) as found:
            arrays = dict(found)
            return Index(
                arrays["keys"],
                _below("annotation/", arrays),
                split=arrays.get("split"),
                group=arrays.get("group"),
                attributes=_below("attribute/", arrays),
                skipped=Skipped(*json.loads(str(arrays["skipped"]))),
            )
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names have this prefix, by the rest of the name."""
    found = {name: value for name, value in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in found.items()}
