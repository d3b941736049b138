"""Read an experiment from a TOML file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import MtlError
from ..files import decoded, expanded, read_file, require_there
from ..registry.catalog import Catalog
from .experiment import Experiment
from .overrides import DEEPEST, Override, Overrides, Table, apply, read_toml, require_text_keys
from .read import parse
from .write import toml_value

Where = str | os.PathLike[str]
"""A path."""


def load(
    path: Where,
    overrides: Overrides = (),
    plugin_files: Sequence[Where] = (),
    catalog: Catalog | None = None,
) -> Experiment:
    """Return the experiment that a TOML file describes.

    overrides: each sets one key.
    plugin_files: one-file plugins, in addition to the file's `plugins` (relative to the file).
    catalog: the known components. None: those of every installed plugin.

    Raises MtlError with all problems of the file, one per line. If a plugin failed, its own error
    is the `__cause__`.
    """
    file = Path(path)
    tables = _read_toml(file)
    overrides = as_toml(overrides)
    applied = apply(tables, overrides)

    # A `plugins` key of the wrong type is left as it is: `parse` reports it.
    if plugin_files and isinstance(tables.setdefault("plugins", []), list):
        tables["plugins"] += [str(expanded(f).absolute()) for f in plugin_files]

    try:
        return parse(tables, catalog, base=file.parent)
    except MtlError as error:
        lines = with_overrides(error, applied)
        raise MtlError("\n  ".join([f"{file}:", *lines])) from error.__cause__


def load_experiment(
    path: Where, overrides: Mapping[str, object] | None = None, plugins: Sequence[Where] = ()
) -> Experiment:
    """Return the experiment that a TOML file describes.

    overrides: dotted key -> value, such as {"train.steps": 500}. None removes a key.
    plugins: one-file plugins, in addition to those that the file lists.

    Raises MtlError with all problems of the file, one per line.
    """
    return load(path, overrides or {}, plugins)


def _read_toml(file: Path) -> Table:
    require_there(file)
    try:
        data = read_file(file)
        return read_toml(decoded(data))
    except OSError as error:
        raise MtlError(f"{file} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MtlError(f"{file} is not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise MtlError(f"{file} is not valid TOML: {error}") from error
    except ValueError as error:  # a name with the character \0
        raise MtlError(f"{str(file)!r} can't be read: {error}") from error


def as_toml(overrides: Overrides) -> Overrides:
    """Return overrides with their Python values converted to TOML values.

    Raises MtlError for a key of a table that is not a string, as in TOML, and for endless nesting.
    """
    if not isinstance(overrides, Mapping):
        return overrides
    try:
        converted = {key: toml_value(value) for key, value in overrides.items()}
    except RecursionError as error:
        raise MtlError(f"overrides: nested more than {DEEPEST} levels deep") from error
    for key, value in converted.items():
        require_text_keys(value, f"overrides[{key!r}]")
    return converted


def with_overrides(error: MtlError, applied: Sequence[Override]) -> list[str]:
    """Return the lines of an error, each with the override that caused it.

    applied: as `apply` returns them.
    """
    return [_with_override(line, applied) for line in str(error).splitlines()]


def _with_override(line: str, overrides: Sequence[Override]) -> str:
    for override in overrides:
        path = ".".join(override.path)
        if re.match(rf"{re.escape(path)}(?!\w)", line):
            return f"{line} (from {override.given})"
    return line
