"""`mtl eval`: the figures of a run on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
    split: str = "test",
    checkpoint: Literal["last", "best"] = "last",
    mirror: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Evaluate the network that RUN kept, on clean images.

    Parameters
    ----------
    run
        A run's folder.
    data
        Which [data.LABEL] to read; default: all of the run's.
    set_
        Another value for a key: `--set data.fer2013.root=DIR`. May be given often.
    split
        Which split.
    checkpoint
        The last one (to be reported), or the best on validation.
    mirror
        Average each answer with the one about the mirrored image: two forwards an image.
    json
        Print JSON.
    """

    from ..evaluation.evaluate import evaluate as measure_run
    from ._progress import Bars, metrics_table
    from ._shared import console, print_json, say

    with Bars(quiet=json) as bars:
        found = measure_run(
            run,
            data=data,
            overrides=set_,
            split=split,
            which=checkpoint,
            mirror=mirror,
            progress=bars.progress,
        )
    if json:
        print_json(found.as_json())
        return 0
    for line in found.report:
        say(line)
    title = (
        f"{found.run}  {found.checkpoint}  {found.data}/{found.split}  {found.measured.n} images"
    )
    console.print(metrics_table(title, found.measured))
    return 0
