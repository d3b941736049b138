"""Files with their own checksum, to detect flipped bits and manual edits.

A JSON file holds it under the key "checksum", a TOML file in its first comment. It covers the
values, not the layout of the text. SHA-256 is the fastest of hashlib's hashes here (1.3 GB/s on a
CPU with SHA instructions), and no two files share it by accident, unlike a CRC.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import MtlError
from .files import to_json

CHECKSUM = "checksum"
_FIRST_LINE = "# Do not edit: mtlcore refuses this run after a change. checksum = "

JsonObject = dict[str, Any]


def digest(data: bytes | memoryview) -> str:
    """Return the SHA-256 of data as hex digits. It releases the GIL."""
    return hashlib.sha256(data).hexdigest()


def damaged(file: Path, what: str) -> MtlError:
    """Return the error for a damaged file of a run. what: is wrong with it."""
    return MtlError(f"{file} is damaged: {what}. Copy it from a backup of the run")


def seal_json(content: Mapping[str, Any]) -> bytes:
    """Return the text of a JSON file with this content and its checksum.

    NaN and infinities become null.
    """
    plain: JsonObject = json.loads(to_json(dict(content)))
    plain.pop(CHECKSUM, None)
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=2).encode()


def parse_json(data: bytes, file: Path) -> JsonObject:
    """Return the JSON object of a file, with its checksum. Raises MtlError for anything else."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MtlError(f"{file} can't be read: it is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise MtlError(f"{file} can't be read: expected a JSON object")
    return content


def unseal_json(content: JsonObject, file: Path) -> JsonObject:
    """Return the content of a JSON file without its checksum. Raises MtlError if that is wrong."""
    own = {key: value for key, value in content.items() if key != CHECKSUM}
    if content.get(CHECKSUM) != _checksum(own):
        raise damaged(file, "its values do not match its checksum")
    return own


def seal_toml(text: str) -> str:
    """Return a TOML text with its checksum as the first line."""
    return f"{_FIRST_LINE}{_checksum(tomllib.loads(text))}\n{text}"


def has_seal(text: str, tables: Mapping[str, Any]) -> bool:
    """Whether the first line of a TOML text is the checksum of its tables."""
    first, _, _ = text.partition("\n")
    return first.strip() == f"{_FIRST_LINE}{_checksum(tables)}"


def _checksum(content: Mapping[str, Any]) -> str:
    """The checksum of the values: of their JSON text with sorted keys."""
    return digest(json.dumps(content, sort_keys=True, default=str).encode())
