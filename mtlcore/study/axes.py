"""Keys with several values: `--over KEY=V1,V2,...`, and the names of their settings as arms.

A setting is a sequence of overrides ("optimizer.lr=0.1"), one per axis.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

from attrs import frozen

from ..config.overrides import parse_override, plain
from ..errors import MtlError

LONGEST = 40  # characters of a value in the name of a folder


@frozen
class Axis:
    """One key and its values, as they were typed."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, option: str = "--over") -> Axis:
        """Parse "KEY=V1,V2,...": TOML values, split at commas outside of brackets and quotes.

        A list is one value in brackets: `augment.crop=[0.5,0.9],[0.7,1.0]` has two values.
        Text that is not TOML is a bare string, as for `--set`.
        Raises MtlError on any other form, and on a value that is listed twice.
        """
        key, equals, typed = text.partition("=")
        values = tuple(_split(typed)) if equals else ()
        if not values or "" in values:
            example = "pretext.puzzling.weight=0,0.1,0.3"
            raise MtlError(f"{option} {text}: expected KEY=VALUE,VALUE, such as {example}")
        axis = cls(key.strip(), values)

        seen: list[object] = []
        for override in axis.overrides:
            value = plain(parse_override(override)[1])
            # Compare the types, too: in Python 1 == True, but they are two values in TOML.
            if any(type(value) is type(other) and value == other for other in seen):
                raise MtlError(f"{option} {text}: the value {value!r} is listed twice")
            seen.append(value)
        return axis

    @property
    def overrides(self) -> tuple[str, ...]:
        """One `--set` per value."""
        return tuple(f"{self.key}={value}" for value in self.values)


def as_options(setting: Sequence[str]) -> str:
    """The setting as a user types it: "--over a=1 --over b=2"."""
    return " ".join(f"--over {override}" for override in setting)


def values_of(setting: Sequence[str]) -> dict[str, object]:
    """key -> value of a setting, as TOML reads it."""
    values: dict[str, object] = {}
    for override in setting:
        path, value = parse_override(override)
        values[".".join(path)] = plain(value)
    return values


def arm_name(keys: Sequence[str], setting: Sequence[str]) -> str:
    """The name of a setting as an arm, and in the names of its run folders: "weight=0.3"."""
    short_names = [key.rpartition(".")[2] for key in keys]
    parts = []
    for key, short, override in zip(keys, short_names, setting):
        name = short
        if short_names.count(short) > 1:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", key)
        typed = override.partition("=")[2]
        parts.append(f"{name}={legal(typed)}")
    return "_".join(parts)


def legal(typed: str) -> str:
    """A value in the characters of a file name; with a hash where that changed the value."""
    legal = re.sub(r"[^A-Za-z0-9.-]+", "-", typed).strip("-")[:LONGEST]
    if legal == typed:
        return legal
    digest = hashlib.blake2b(typed.encode(), digest_size=3).hexdigest()
    return f"{legal}-{digest}" if legal else digest


def _split(text: str) -> Iterator[str]:
    """The values between the commas that are outside of brackets and quotes."""
    depth = 0
    quote = ""
    start = 0
    for i, letter in enumerate(text):
        if quote:
            # A backslash escapes the quote in "basic" strings alone, not in 'literal' ones.
            if letter == quote and (quote == "'" or text[i - 1] != "\\"):
                quote = ""
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()
