"""`mtl data pack`: decode a dataset once, into a few large files that a run reads quickly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import MtlError
from ._options import ConfigFile, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..data.packs.writer import Outcome

LARGEST_SHARD_MB, MOST_JOBS = 4096, 256


def pack(
    label: str,
    config: ConfigFile,
    *,
    out: Path,
    size: str = "",
    shard_mb: int = 256,
    quality: int | Literal["raw"] = 95,
    jobs: int | None = None,
    part: str = "1/1",
    set_: Overrides = (),
    plugin: PluginFiles = (),
) -> int:
    """Decode every image of [data.LABEL] once, and write a pack.

    Train on it with `name = "packed"` and `root = "DIR"` in [data.LABEL]. After an interruption,
    call the same command again: it continues.

    Parameters
    ----------
    label
        The [data.LABEL] of the configuration to pack.
    config
        The experiment, a TOML file.
    out
        The folder of the pack.
    size
        Height and width of the images in pixels, as `112` or `96x128` (default: the size of the
        image cache of the experiment).
    shard_mb
        About the size of each file, in megabytes.
    quality
        Quality of JPEG, 1 to 100, or `raw`: pixels as they are, which need about ten times the
        space and no decoding.
    jobs
        Threads that decode (default: one for each core, at most eight).
    part
        `i/n`: write one of n parts, as a job of an array on a cluster. All jobs share `--out`. The
        last one to end completes the pack.
    set_
        Set one key: `--set data.faces.root=DIR`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..callbacks.bars import Bars
    from ..config import load
    from ..data.packs.plan import PackOptions
    from ..data.packs.writer import pack as write_pack

    options = PackOptions(
        size=_size(size),
        quality=_quality(quality),
        shard_mb=_in_range("--shard-mb", shard_mb, LARGEST_SHARD_MB),
        jobs=None if jobs is None else _in_range("--jobs", jobs, MOST_JOBS),
        part=_part(part),
    )
    experiment = load(config, set_, plugin)
    with Bars() as bars:
        outcome = write_pack(experiment, label, out, options, bars.progress)
    _print(outcome, label, out, part)
    return 0


def _print(outcome: Outcome, label: str, out: Path, part: str) -> None:
    from ._shared import print_line

    if outcome.manifest is None:
        print_line(
            f"part {part} is written; {outcome.missing} of {outcome.plan.shards} shards belong to "
            "other parts: the last part to end completes the pack"
        )
        return
    n_bytes = sum(shard.length for shard in outcome.manifest.shards)
    height, width = outcome.plan.size
    shards = len(outcome.manifest.shards)
    print_line(
        f"{out}: {outcome.plan.samples} samples of {height} x {width} pixels, "
        f"{n_bytes / 1e6:.1f} MB, {shards} shard{'s' * (shards > 1)}"
    )
    print_line(f'train on it: [data.{label}] name = "packed", root = "{out}"')


def _size(text: str) -> tuple[int, int] | None:
    """Parse `112` or `96x128`."""
    from ..image_size import image_size

    if not text:
        return None
    sides = [int(side) for side in text.split("x")] if re.fullmatch(r"\d+(x\d+)?", text) else []
    try:
        return image_size(sides * 2 if len(sides) == 1 else sides)
    except ValueError as error:
        raise MtlError(
            f"--size {text}: expected pixels such as 112, or height x width such as 96x128"
        ) from error


def _quality(value: int | str) -> int | None:
    return None if isinstance(value, str) else _in_range("--quality", value, 100)


def _in_range(option: str, value: int, largest: int) -> int:
    if not 1 <= value <= largest:
        raise MtlError(f"{option} {value}: expected a whole number from 1 to {largest}")
    return value


def _part(text: str) -> tuple[int, int]:
    """Parse `i/n`."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise MtlError(f"--part {text}: expected i/n with i from 1 to n, such as 1/4")
    return number, parts
