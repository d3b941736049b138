"""Read an experiment from a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MtlError
from ..registry.catalog import Catalog
from .experiment import Experiment
from .overrides import apply, parse_override
from .read import parse

Where = str | os.PathLike[str]


def load(
    path: Where,
    overrides: Sequence[str] = (),
    plugin_files: Sequence[Where] = (),
    catalog: Catalog | None = None,
) -> Experiment:
    """The experiment that a file describes.

    overrides: "a.b.c=VALUE", each sets one key. plugin_files: one-file plugins beside those of the file's `plugins`
    (which are relative to the file). catalog: what names are looked up in; default: every installed plugin.
    Raises MtlError with all problems of the file, one line each; chained from the original error where a plugin failed.
    """
    file = Path(path)
    tables = _tables(file)
    apply(tables, overrides)
    if plugin_files and isinstance(tables.setdefault("plugins", []), list):
        tables["plugins"] += [str(Path(f).expanduser().absolute()) for f in plugin_files]
    try:
        return parse(tables, catalog, base=file.parent)
    except MtlError as error:
        lines = [_with_override(line, overrides) for line in str(error).splitlines()]
        raise MtlError("\n  ".join([f"{file}:", *lines])) from error.__cause__


def _tables(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MtlError(f"{file} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MtlError(f"{file} is no UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise MtlError(f"{file} is no valid TOML: {error}") from error


def _with_override(line: str, overrides: Sequence[str]) -> str:
    """Name the override that a problem comes from."""
    for override in overrides:
        path = ".".join(parse_override(override)[0])
        if re.match(rf"{re.escape(path)}(?!\w)", line):
            return f"{line} (from --set {override})"
    return line
