"""Override single keys of a configuration: `--set a.b.c=VALUE`, or {"a.b.c": VALUE}."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from ..errors import MtlError

Table = dict[str, Any]
"""A table as tomllib returns it: strings, numbers, booleans, dates, lists and tables."""

DEEPEST = 32  # levels of tables and lists
LONGEST_TEXT = 10**7  # characters of a TOML file
_LONG_KEY = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')\s*\.\s*){{{2 * DEEPEST}}}"""
)

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


def require_text_keys(value: object, path: str) -> None:
    """Raise MtlError if a key of a table is not a string, at any depth. path: that of `value`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise MtlError(f"{path}: its key {key!r} is not a string: expected {str(key)!r}")
            require_text_keys(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            require_text_keys(inner, f"{path}[{number}]")


def read_toml(text: str) -> Table:
    """Return the tables of a TOML text. Raises TOMLDecodeError, also if it is nested too deep.

    tomllib overflows the stack on nested lists, and takes memory that is quadratic in the number of
    parts of a dotted key.
    """
    too_deep = f"nested more than {DEEPEST} levels deep"
    if len(text) > LONGEST_TEXT:
        raise tomllib.TOMLDecodeError(
            f"{len(text):,} characters; a configuration has at most {LONGEST_TEXT:,}"
        )
    if _LONG_KEY.search(text):
        raise tomllib.TOMLDecodeError(too_deep)
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError(too_deep) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # a number with thousands of digits, a date such as 2026-99-99
        raise tomllib.TOMLDecodeError(str(error)) from error
    if _depth(tables) > DEEPEST:
        raise tomllib.TOMLDecodeError(too_deep)
    return tables


def _depth(tables: Table) -> int:
    """Return how many tables and lists are inside each other. It does not recurse."""
    depth = 0
    level: list[Any] = [tables]
    while level:
        depth += 1
        inside: list[Any] = []
        for container in level:
            inside += container.values() if isinstance(container, dict) else container
        level = [value for value in inside if isinstance(value, dict | list)]
    return depth


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


def apply(tables: Table, overrides: Overrides) -> list[Override]:
    """Set the keys of all overrides in `tables`, in order.

    Return them for messages: the path of one that added a table is that of the first such table.

    Raises MtlError with the override if its key is malformed, or passes through a value.
    """
    applied: list[Override] = []
    for override in read_overrides(overrides):
        *parents, key = override.path
        table, source = tables, override
        for depth, parent in enumerate(parents, 1):
            if parent not in table and override.value is None:
                table = {}  # there is no such key to remove, and no table is added
                break
            if parent not in table and source is override and depth > 1:
                source = evolve(override, path=override.path[:depth])
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                parent_path = ".".join(override.path[:depth])
                raise MtlError(f"{override.given}: {parent_path} is a value, not a table")
        applied.append(source)
        if override.value is None:
            table.pop(key, None)
            continue
        table.pop(_EXCLUDES.get(".".join(override.path), key), None)
        table[key] = override.value
    return applied


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
        table: Any = read_toml(f"{key} = 0")
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
        tables = read_toml(f"value = {typed}")
    except tomllib.TOMLDecodeError:
        return typed
    if len(tables) != 1:
        return typed
    value = tables["value"]
    return value if isinstance(value, str | list | dict) else Word.of(typed, value)
