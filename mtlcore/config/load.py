"""Read an experiment from a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from ..errors import MtlError
from ..registry.catalog import Catalog
from .experiment import Experiment
from .overrides import Table, apply, parse_override
from .read import parse

Where = str | os.PathLike[str]
"""A path."""


def load(
    path: Where,
    overrides: Sequence[str] = (),
    plugin_files: Sequence[Where] = (),
    catalog: Catalog | None = None,
) -> Experiment:
    """Return the experiment that a TOML file describes.

    overrides: "a.b.c=VALUE", each sets one key.
    plugin_files: one-file plugins, in addition to the file's `plugins` (relative to the file).
    catalog: the known components. None: those of every installed plugin.

    Raises MtlError with all problems of the file, one per line. If a plugin failed, its own error
    is the `__cause__`.
    """
    file = Path(path)
    tables = _read_toml(file)
    apply(tables, overrides)

    # A `plugins` key of the wrong type is left as it is: `parse` reports it.
    if plugin_files and isinstance(tables.setdefault("plugins", []), list):
        tables["plugins"] += [str(Path(f).expanduser().absolute()) for f in plugin_files]

    try:
        return parse(tables, catalog, base=file.parent)
    except MtlError as error:
        lines = [_with_override(line, overrides) for line in str(error).splitlines()]
        raise MtlError("\n  ".join([f"{file}:", *lines])) from error.__cause__


def _read_toml(file: Path) -> Table:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MtlError(f"{file} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MtlError(f"{file} is not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise MtlError(f"{file} is not valid TOML: {error}") from error


def _with_override(line: str, overrides: Sequence[str]) -> str:
    """Add the override that caused a problem to its line."""
    for override in overrides:
        path = ".".join(parse_override(override)[0])
        if re.match(rf"{re.escape(path)}(?!\w)", line):
            return f"{line} (from --set {override})"
    return line
