"""`--set a.b.c=VALUE`: another value for one key of a configuration."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from ..errors import MtlError

_EITHER = {"train.steps": "epochs", "train.epochs": "steps"}  # giving the one takes the other back


class Word(str):
    """A scalar as it was typed: `root=123` is a folder, `steps=123` a number; the field that it reaches decides."""

    __slots__ = ("value",)
    value: Any

    @classmethod
    def of(cls, typed: str, value: Any) -> Word:
        word = cls(typed)
        word.value = value
        return word


def plain(value: Any) -> Any:
    """What TOML makes of it."""
    return value.value if isinstance(value, Word) else value


def apply(tables: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set each override in `tables`, in order. Raises MtlError, which names the override that makes no sense."""
    for override in overrides:
        path, value = parse_override(override)
        *parents, key = path
        table = tables
        for depth, parent in enumerate(parents, 1):
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise MtlError(
                    f"--set {override}: {'.'.join(path[:depth])} is a value, not a table"
                )
        table.pop(_EITHER.get(".".join(path), key), None)
        table[key] = value


def parse_override(override: str) -> tuple[list[str], Any]:
    """ "a.b=3" -> (["a", "b"], 3). The key as in TOML; a value that is no TOML is a bare string."""
    key, equals, typed = override.partition("=")
    path = _path(key.strip()) if equals else []
    if not path:
        raise MtlError(f"--set {override}: expected KEY=VALUE, such as train.steps=500")
    return path, _value(typed.strip())


def _path(key: str) -> list[str]:
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return []
    path = []
    while isinstance(table, dict):
        if len(table) != 1:
            return []
        [(name, table)] = table.items()
        path.append(name)
    return path


def _value(typed: str) -> Any:
    try:
        tables = tomllib.loads(f"value = {typed}")
    except tomllib.TOMLDecodeError:
        return typed
    if len(tables) != 1:
        return typed
    value = tables["value"]
    return value if isinstance(value, str | list | dict) else Word.of(typed, value)
