"""Indexes that take minutes to read (hundreds of thousands of label files), kept between runs.

They lie in `$XDG_CACHE_HOME/mtlcore/indexes` (default: ~/.cache). What is kept counts while the source's fields and the
modification times of its folders stay the same (a file that is added, removed or renamed changes those, one that is
rewritten in place does not), and while the code that reads it does: a mended table of labels is never answered with what
the old one said. Sets of less than SMALLEST rows are read anew each time.
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


def cached_index(source: Dataset, folders: Iterable[Path], read: Callable[[], Index]) -> Index:
    """What `read` gives, or gave last time. folders: those whose change makes the kept index a stale one.

    read: a function of the source's own module, whose text counts together with that of the helpers beside this file.
    """
    file = _file(source, folders, read)
    kept = _load(file)
    if kept is not None:
        return kept
    index = read()
    if len(index) >= SMALLEST:
        with contextlib.suppress(
            OSError
        ):  # a disk that is full or read-only only costs the next run its time
            _save(file, index)
    return index


def _file(source: Dataset, folders: Iterable[Path], read: Callable[[], Index]) -> Path:
    times = [(str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir()]
    code = [file.read_bytes() for file in _code(read)]
    digest = hashlib.blake2b(
        repr((FORMAT, source, times, code)).encode(), digest_size=16
    ).hexdigest()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 (no home raises in pathlib)
    return Path(home) / "mtlcore" / "indexes" / f"{digest}.npz"


def _code(read: Callable[[], Index]) -> list[Path]:
    """The files that decide what an index says: the reader's own, and the helpers (`_mat.py`, `_crops.py`, ...)."""
    return [Path(inspect.getfile(read)), *sorted(Path(__file__).parent.glob("_*.py"))]


def _save(file: Path, index: Index) -> None:
    arrays = {
        "keys": index.keys,
        "skipped": np.array(json.dumps([index.skipped.names, index.skipped.notes])),
    }
    arrays |= {
        name: value
        for name, value in (("split", index.split), ("group", index.group))
        if value is not None
    }
    arrays |= {f"annotation/{name}": value for name, value in index.annotations.items()}
    arrays |= {f"attribute/{name}": value for name, value in index.attributes.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as out:
        np.savez(out, allow_pickle=False, **arrays)
    part.replace(file)


def _load(file: Path) -> Index | None:
    """None where there is none, or where it is broken."""
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
    return {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
