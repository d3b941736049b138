"""PNG sheets that commands write: refused before the work where they can't be written, and never left half written."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import MtlError


def require_png(option: str, path: Path) -> None:
    """Before the work. option: the key that gave the path. Raises MtlError: another suffix, no folder to write into."""
    if path.suffix.lower() != ".png":
        raise MtlError(f"{option} {path}: expected a PNG file, such as {path.with_suffix('.png')}")
    if path.is_dir():
        raise MtlError(f"can't write {path}: it is a folder")
    if not path.parent.is_dir():
        raise MtlError(f"can't write {path}: {path.parent} is no folder")
    if not os.access(path.parent, os.W_OK):
        raise MtlError(f"can't write {path}: {path.parent} is read-only")


def save_png(path: Path, image: np.ndarray) -> None:
    """(H, W, 3) uint8, as a whole or not at all. Raises MtlError where it can't be written."""
    from PIL import Image

    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(image).save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MtlError(f"can't write {path}: {error.strerror or error}") from error
