"""`mtl benchmark`: compare the formats of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ._options import Json, Overrides

if TYPE_CHECKING:
    from rich.table import Table

    from ..deployment.benchmark import Benchmark

FormatName = Literal["torch", "torch-compile", "torch-export", "onnx"]


def benchmark(
    run: Path,
    *,
    formats: Annotated[tuple[FormatName, ...], Parameter(consume_multiple=True, negative="")] = (
        "torch",
        "torch-compile",
        "torch-export",
        "onnx",
    ),
    split: str | None = None,
    n: int = 1000,
    checkpoint: Literal["last", "best"] = "last",
    set_: Overrides = (),
    json: Json = False,
) -> int:
    """Compare the formats of RUN on this CPU: accuracy on a split, time, size on disk.

    Parameters
    ----------
    run
        The run folder.
    formats
        Such as `--formats torch onnx`; default: all.
    split
        The split for the accuracy (default: test; no accuracy if it can't be opened).
    n
        Number of samples, evenly spaced over the split.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    set_
        Set one key: `--set data.fer2013.root=DIR`. Repeatable.
    json
        Print JSON.
    """
    from ..run import Run
    from ._shared import console, print_json, print_line

    found = Run(run).benchmark(formats, split=split, n=n, checkpoint=checkpoint, overrides=set_)
    if json:
        print_json(found.as_json())
        return 0
    console.print(_table(f"{run}  {found.samples}  {found.threads} threads", found))
    for one in found.results:
        if one.error:
            print_line(f"{one.format}: not measured: {one.error}")
    return 0


def _table(title: str, found: Benchmark) -> Table:
    """One row for each format."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    metrics: dict[str, None] = {}
    sizes: dict[int, None] = {}
    for one in found.results:
        metrics |= dict.fromkeys(one.metrics)
        sizes |= dict.fromkeys(one.ms)
    names = [escape(name) for name in metrics]
    times = [f"ms, batch {size}" for size in sizes]
    table = Table("format", *names, *times, "MB", title=Text(title), title_justify="left")
    for one in found.results:
        values = [f"{one.metrics[name]:.4f}" if name in one.metrics else "" for name in metrics]
        ms = [f"{one.ms[size]:.2f}" if size in one.ms else "" for size in sizes]
        megabytes = "" if one.error else f"{one.bytes / 1e6:.1f}"
        table.add_row(one.format, *values, *ms, megabytes)
    return table
