"""`--set a.b.c=VALUE`: another value for one key of a configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from ..errors import MtlError

Table = dict[str, Any]
"""A table as tomllib returns it: strings, numbers, booleans, dates, lists and tables."""

# The keys that exclude each other: setting one removes the other.
_EXCLUDES = {"train.steps": "epochs", "train.epochs": "steps"}


class Word(str):
    """A scalar of `--set`: its text as typed, and its `value` as TOML.

    The type of the field decides between them. `root=123` is a folder, `steps=123` a number.
    """

    __slots__ = ("value",)
    value: object

    @classmethod
    def of(cls, typed: str, value: object) -> Word:
        """Return a word with its value."""
        word = cls(typed)
        word.value = value
        return word


def plain(value: object) -> Any:
    """Return the TOML value of a word, and any other value as it is."""
    return value.value if isinstance(value, Word) else value


def apply(tables: Table, overrides: Sequence[str]) -> None:
    """Set the keys of all overrides in `tables`, in order.

    Raises MtlError with the override if its key is malformed, or passes through a value.
    """
    for override in overrides:
        path, value = parse_override(override)
        *parents, key = path
        table = tables
        for depth, parent in enumerate(parents, 1):
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                parent_path = ".".join(path[:depth])
                raise MtlError(f"--set {override}: {parent_path} is a value, not a table")
        table.pop(_EXCLUDES.get(".".join(path), key), None)
        table[key] = value


def parse_override(override: str) -> tuple[list[str], object]:
    """Split an override into its path and value: "a.b=3" -> (["a", "b"], 3).

    The key is written as in TOML. A value that is not TOML is a string without quotes.
    """
    key, equals, typed = override.partition("=")
    path = _path(key.strip()) if equals else []
    if not path:
        raise MtlError(f"--set {override}: expected KEY=VALUE, such as train.steps=500")
    return path, _value(typed.strip())


def _path(key: str) -> list[str]:
    """Return the parts of a dotted TOML key. Empty if it is not exactly one key."""
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return []

    path = []
    while isinstance(table, dict):
        # A line break in the key makes several keys.
        if len(table) != 1:
            return []
        [(name, table)] = table.items()
        path.append(name)
    return path


def _value(typed: str) -> object:
    """Return the TOML value of a text, or the text itself if it is not TOML."""
    try:
        tables = tomllib.loads(f"value = {typed}")
    except tomllib.TOMLDecodeError:
        return typed
    if len(tables) != 1:
        return typed
    value = tables["value"]
    return value if isinstance(value, str | list | dict) else Word.of(typed, value)
