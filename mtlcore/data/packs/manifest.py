"""pack.json: what a pack holds, and the checksums of its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import asdict, field, frozen

from ...config.same import FREE_DATA
from ...errors import MtlError
from ...sealed import JsonObject, parse_json, seal_json, unseal_json

FORMAT = 1
MANIFEST, INDEX = "pack.json", "index.parquet"
AGAIN = "pack the dataset again with `mtl data pack`"


@frozen
class Source:
    """Where the samples of a pack come from.

    table: the dataset as a TOML table. plugins: one-file plugins that it needs.
    digest: of its keys, labels, splits and groups. labels: `Index.label_digest` of its index.
    """

    table: dict[str, Any]
    plugins: tuple[str, ...]
    digest: str
    labels: str = ""


@frozen
class Plan:
    """Everything about a pack that is known before its images are decoded.

    samples: N. size: height and width of the images. quality: of JPEG, None for raw pixels.
    per_shard: samples of each shard but the last.
    maps: name -> [dtype, channels]. points: name -> K.
    skipped, notes: what the source left out, as in `Skipped`.
    """

    samples: int
    size: tuple[int, int]
    quality: int | None
    per_shard: int
    maps: dict[str, tuple[str, int | None]]
    points: dict[str, int]
    skipped: dict[str, list[str]]
    notes: dict[str, int]
    source: Source

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.samples // self.per_shard)

    def samples_of(self, shard: int) -> range:
        """Return the positions of the samples of one shard."""
        return range(self.samples)[shard * self.per_shard : (shard + 1) * self.per_shard]


@frozen
class FileSum:
    """The length of a file in bytes, and its SHA-256."""

    length: int
    sha256: str


@frozen
class Manifest:
    """The content of pack.json.

    seen: how the files of the source looked, to notice a change (`source.seen_now`).
    """

    plan: Plan
    index: FileSum
    shards: tuple[FileSum, ...]
    seen: dict[str, list[int]] = field(factory=dict)


def shard_name(shard: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{shard:05d}.bin"


def to_bytes(content: Plan | Manifest) -> bytes:
    """Return the text of a JSON file with its checksum."""
    return seal_json({"format": FORMAT, **asdict(content)})


def manifest_of(data: bytes, where: str) -> Manifest:
    """Return the content of pack.json. Raises MtlError if it is damaged or of another format."""
    content = _unsealed(data, where)
    try:
        return Manifest(
            plan=_plan(content["plan"]),
            index=FileSum(**content["index"]),
            shards=tuple(FileSum(**shard) for shard in content["shards"]),
            seen=content["seen"],
        )
    except (LookupError, TypeError, ValueError) as error:
        raise MtlError(f"{where} is not the pack.json of a pack: {AGAIN}") from error


def plan_of(data: bytes, where: str) -> Plan:
    """Return the plan of a pack that is not complete. Raises MtlError as `manifest_of` does."""
    content = _unsealed(data, where)
    try:
        return _plan(content)
    except (LookupError, TypeError, ValueError) as error:
        raise MtlError(f"{where} is not the plan of a pack: delete the folder") from error


def _unsealed(data: bytes, where: str) -> JsonObject:
    content = parse_json(data, Path(where))
    number = content.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise MtlError(
            f"{where} has format {number}, which a newer version of mtlcore wrote; "
            f"this one reads up to {FORMAT}: update mtlcore"
        )
    try:
        own = unseal_json(content, Path(where))
    except MtlError as error:
        raise MtlError(
            f"{where} is damaged: its values do not match its checksum: {AGAIN}"
        ) from error
    own.pop("format", None)
    return own


def _plan(content: Mapping[str, Any]) -> Plan:
    maps: dict[str, tuple[str, int | None]] = {}
    for name, (dtype, channels) in content["maps"].items():
        maps[name] = np.dtype(dtype).name, channels
    source = content["source"]
    height, width = content["size"]
    return Plan(
        samples=int(content["samples"]),
        size=(int(height), int(width)),
        quality=content["quality"],
        per_shard=int(content["per_shard"]),
        maps=maps,
        points=dict(content["points"]),
        skipped=dict(content["skipped"]),
        notes=dict(content["notes"]),
        source=Source(
            source["table"],
            tuple(source["plugins"]),
            source["digest"],
            source.get("labels", ""),  # packs of earlier versions lack it
        ),
    )


def differences(earlier: Plan, now: Plan) -> list[str]:
    """Return what differs between two plans, in words."""
    found: list[str] = []
    for name in ("size", "quality", "per_shard"):
        before, after = getattr(earlier, name), getattr(now, name)
        if before != after:
            found.append(f"{name} was {json.dumps(before)}, now {json.dumps(after)}")
    settings, others = _source_settings(earlier.source), _source_settings(now.source)
    for key in dict.fromkeys([*settings, *others]):
        was, is_now = settings.get(key, "not set"), others.get(key, "not set")
        if was != is_now:
            found.append(f"{key} of the source was {was}, now {is_now}")
    if earlier.source.digest != now.source.digest or earlier.samples != now.samples:
        found.append(
            f"the source had {earlier.samples} samples, now {now.samples}, or its labels changed"
        )
    elif earlier.source.labels != now.source.labels:
        found.append("the points of the source, or the paths of its maps, changed")
    return found


def _source_settings(source: Source) -> dict[str, str]:
    """Return key -> value as JSON of a source, without the paths of the data."""
    # As JSON, since the order of a table counts: that of colors gives the numbers of classes.
    return {key: json.dumps(value) for key, value in source.table.items() if key not in FREE_DATA}
