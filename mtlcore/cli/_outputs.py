"""Where `mtl predict` may write: checked before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.images import is_below
from ..errors import MtlError
from ..files import exists, is_folder, refuse_existing, write_errors_as_mtl_error


def require_new(csv: Path | None, parquet: Path | None, draw: Path | None) -> None:
    """Raise MtlError if something would be overwritten. Called before any work."""
    _require_different({"--csv": csv, "--parquet": parquet, "--draw": draw})
    for table in (csv, parquet):
        if table is not None:
            refuse_existing(table)
    if draw is None or not exists(draw):
        return
    if not is_folder(draw):
        raise MtlError(f"--draw {draw} is a file: choose a new or empty folder")
    with write_errors_as_mtl_error(draw):
        if any(draw.iterdir()):
            raise MtlError(f"--draw {draw}: the folder is not empty: choose another one")


def require_outside(draw: Path, folders: Sequence[Path]) -> None:
    """Raise MtlError if the drawings would be in a folder that is read: they are images, too."""
    for folder in folders:
        if is_below(os.path.realpath(folder), os.path.realpath(draw)):
            raise MtlError(
                f"--draw {draw} is below the source {folder}, whose images are predicted: choose a "
                "folder outside of it"
            )


def _require_different(files: Mapping[str, Path | None]) -> None:
    """Raise MtlError if two options name the same file. files: option -> its value."""
    option_of: dict[str, str] = {}
    for option, file in files.items():
        if file is None:
            continue
        other = option_of.setdefault(os.path.realpath(file), option)
        if other != option:
            raise MtlError(
                f"{other} and {option} name the same file, {file}: choose another name for one"
            )
