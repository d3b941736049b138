"""`mtl eval`: the metrics of a run on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ._options import Json, Overrides


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    set_: Overrides = (),
    split: str = "test",
    checkpoint: Literal["last", "best"] = "last",
    mirror: Annotated[bool, Parameter(negative="")] = False,
    groups: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Evaluate the inference weights of RUN on clean images, in the precision of the run.

    Parameters
    ----------
    run
        The run folder.
    data
        Evaluate on this [data.LABEL]; default: on all of the run's.
    set_
        Set one key: `--set data.fer2013.root=DIR`, `--set input.eval_batch_size=64`,
        `--set train.precision=32`. Repeatable.
    split
        The split to evaluate on.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    mirror
        Average the predictions for each image and its mirror image: two forwards per image.
    groups
        Also print the metrics of each group, such as accuracy[race=white].
    json
        Print JSON, with all groups.
    """
    from ..callbacks.bars import Bars
    from ..run import Run
    from ._progress import headline, is_of_group, metrics_table
    from ._shared import console, print_json, print_line

    with Bars(quiet=json) as bars:
        # Not `load_run`: some configurations load only with these `--set` overrides.
        result = Run(run).evaluate(
            split,
            data=data,
            overrides=set_,
            checkpoint=checkpoint,
            mirror=mirror,
            progress=bars.progress,
        )
    if json:
        print_json(result.as_json())
        return 0
    for line in result.report:
        print_line(line)
    where = f"{result.run}  {result.checkpoint}  {result.data}/{result.split}"
    counts = [f"{n} with a label of {label}" for label, n in result.n.items()]
    title = f"{where}  {', '.join(counts)}"
    shown = {k: v for k, v in result.metrics.items() if groups or not is_of_group(k)}
    console.print(metrics_table(title, shown))
    hidden = len(result.metrics) - len(shown)
    if hidden:
        print_line(f"{hidden} metrics of groups: --groups")
    print_line(headline(result.metrics))
    return 0
