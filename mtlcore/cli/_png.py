"""The PNG files that commands write: checked before the work, written as a whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from ..errors import MtlError
from ..files import is_folder, write_atomically, write_errors_as_mtl_error


def require_png(option: str, path: Path) -> None:
    """Raise MtlError where no PNG file can be written to `path`. Called before any work is done.

    option: the command-line option that set the path.
    """
    if is_folder(path):
        raise MtlError(f"can't write {path}: it is a folder")
    if path.suffix.lower() != ".png":
        raise MtlError(f"{option} {path}: expected a PNG file, such as {path.with_suffix('.png')}")
    if not is_folder(path.parent):
        raise MtlError(f"can't write {path}: {path.parent} is not a folder")
    if not os.access(path.parent, os.W_OK):
        raise MtlError(f"can't write {path}: {path.parent} is read-only")


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) uint8. Raises MtlError where that fails, and then leaves nothing."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    with write_errors_as_mtl_error(path):
        write_atomically(path, encoded.getbuffer())
