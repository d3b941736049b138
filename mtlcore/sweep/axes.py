"""What is swept: `--over KEY=V1,V2,...`, the settings that come of it, and what they are called."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import frozen

from ..config.overrides import parse_override, plain
from ..errors import MtlError

LONGEST = 40  # letters of a value in a folder's name


@frozen
class Axis:
    """One key, and the values that it takes, as they were typed."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """ "KEY=V1,V2,...": TOML values, parted by the commas that stand outside of brackets and quotes.

        A list is one value in brackets: `augment.crop=[0.5,0.9],[0.7,1.0]` are two. What is no TOML is a bare string, as for
        `--set`. Raises MtlError where it is not of this form, and where a value stands there twice.
        """
        key, equals, typed = text.partition("=")
        values = tuple(_parted(typed)) if equals else ()
        if not values or "" in values:
            raise MtlError(
                f"--over {text}: expected KEY=VALUE,VALUE, such as pretext.puzzling.weight=0,0.1,0.3"
            )
        axis = cls(key.strip(), values)
        meant = [plain(parse_override(override)[1]) for override in axis.overrides]
        twice = next(
            (
                v
                for i, v in enumerate(meant)
                if any(type(v) is type(w) and v == w for w in meant[:i])
            ),
            None,
        )
        if twice is not None:
            raise MtlError(f"--over {text}: the value {twice!r} stands there twice")
        return axis

    @property
    def overrides(self) -> tuple[str, ...]:
        """One `--set` a value."""
        return tuple(f"{self.key}={value}" for value in self.values)


def over(setting: Sequence[str]) -> str:
    return " ".join(f"--over {override}" for override in setting)


def values_of(setting: Sequence[str]) -> dict[str, Any]:
    found = {}
    for override in setting:
        path, value = parse_override(override)
        found[".".join(path)] = plain(value)
    return found


def folder_name(keys: Sequence[str], setting: Sequence[str], seed: int) -> str:
    """A folder's name that does not depend on the other runs: weight=0.3_seed=1."""
    last = [key.rpartition(".")[2] for key in keys]
    parts = []
    for key, short, override in zip(keys, last, setting):
        typed = override.partition("=")[2]
        legal = re.sub(r"[^A-Za-z0-9.+-]+", "-", typed).strip("-")[:LONGEST]
        unique = (
            ""
            if legal == typed
            else "-" * bool(legal) + hashlib.blake2b(typed.encode(), digest_size=3).hexdigest()
        )
        shown = short if last.count(short) == 1 else re.sub(r"[^A-Za-z0-9._-]+", "-", key)
        parts.append(f"{shown}={legal}{unique}")
    return "_".join([*parts, f"seed={seed}"])


def _parted(text: str) -> Iterator[str]:
    """The values between the commas that stand outside of brackets and quotes."""
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and (quote == "'" or text[i - 1] != "\\") else quote
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
