"""Override single keys of a configuration: `--set a.b.c=VALUE`, or {"a.b.c": VALUE}."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from ..errors import MtlError

Table = dict[str, Any]
"""A table as tomllib returns it: strings, numbers, booleans, dates, lists and tables."""

Overrides = Sequence[str] | Mapping[str, object]
"""From the command line: "a.b.c=VALUE". From Python: dotted key -> value, None for the default."""

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


def without_none(value: Any) -> Any:
    """Remove None from dicts at any depth, since TOML has no null. Sets become sorted lists."""
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [without_none(inner) for inner in value]
    return value


@frozen
class Override:
    """The new value of one key.

    path: the parts of its key. value: None removes the key. given: its text for messages.
    """

    path: tuple[str, ...]
    value: object
    given: str


def read_overrides(overrides: Overrides) -> list[Override]:
    """Return all overrides in order. Raises MtlError if one is malformed."""
    if isinstance(overrides, str):
        raise MtlError(
            f'overrides = {overrides!r}: expected a dict, such as {{"train.steps": 500}}'
        )
    if not isinstance(overrides, Mapping):
        parsed = [(parse_override(override), override) for override in overrides]
        return [Override(tuple(path), value, f"--set {text}") for (path, value), text in parsed]

    found: list[Override] = []
    for key, value in overrides.items():
        path = _path(key) if isinstance(key, str) else []
        if not path:
            raise MtlError(f'overrides[{key!r}]: expected a key such as "train.steps"')
        found.append(Override(tuple(path), value, f"overrides[{key!r}]"))
    return found


def apply(tables: Table, overrides: Overrides) -> None:
    """Set the keys of all overrides in `tables`, in order.

    Raises MtlError with the override if its key is malformed, or passes through a value.
    """
    for override in read_overrides(overrides):
        *parents, key = override.path
        table = tables
        for depth, parent in enumerate(parents, 1):
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                parent_path = ".".join(override.path[:depth])
                raise MtlError(f"{override.given}: {parent_path} is a value, not a table")
        if override.value is None:
            table.pop(key, None)
            continue
        table.pop(_EXCLUDES.get(".".join(override.path), key), None)
        table[key] = override.value


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
