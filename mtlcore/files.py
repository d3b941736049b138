"""Write files so that a crash leaves them whole, and so that a full disk is a clear message."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import MtlError


@contextmanager
def write_errors_as_mtl_error(
    path: Path, note: str = "", temporary: Path | None = None
) -> Iterator[None]:
    """Convert an OSError into an MtlError that names the file and the reason.

    path: the file or folder to name if the error itself names none.
    note: the end of the message.
    temporary: a folder to delete after an error.
    """
    try:
        yield
    except OSError as error:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or error
        raise MtlError(f"can't write {error.filename or path}: {reason}{note}") from error


def write_atomically(file: Path, data: bytes | memoryview) -> None:
    """Write a file under a temporary name, flush it to disk, and rename it."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk, where the system can: Windows can't open a folder."""
    # A rename survives a power failure only after its folder was flushed.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: object, indent: int | None = None) -> str:
    """Return a value as JSON. NaN and infinity become null, since JSON has neither."""
    return json.dumps(finite(value), indent=indent, allow_nan=False)


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, at any depth."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
