"""`mtl eval`: the metrics of a run on a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ._options import Json, Overrides

if TYPE_CHECKING:
    from ..evaluation.delta_m import DeltaM
    from ..evaluation.evaluate import Evaluation


def evaluate(
    run: Path,
    *,
    data: str | None = None,
    set_: Overrides = (),
    split: str = "test",
    checkpoint: Literal["last", "best"] = "last",
    mirror: Annotated[bool, Parameter(negative="")] = False,
    groups: Annotated[bool, Parameter(negative="")] = False,
    against: tuple[Path, ...] = (),
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
    against
        Also evaluate this run, and print delta_m: how much better RUN is on average. Repeatable:
        one single-task run for each task of RUN.
    json
        Print JSON, with all groups.
    """
    from ..callbacks.bars import Bars
    from ..evaluation.groups import without_groups
    from ..run import Run
    from ._progress import headline, metrics_table
    from ._shared import console, print_json, print_line

    found = []
    with Bars(quiet=json) as bars:
        for folder in (run, *against):
            # Not `load_run`: some configurations load only with these `--set` overrides.
            one = Run(folder).evaluate(
                split,
                data=data,
                overrides=set_,
                checkpoint=checkpoint,
                mirror=mirror,
                progress=bars.progress,
            )
            found.append(one)
    result, *others = found
    compared = _compared(run, result, others) if others else None
    if json:
        print_json(result.as_json() | (compared.as_json() if compared else {}))
        return 0
    for line in result.report:
        print_line(line)
    where = f"{result.run}  {result.checkpoint}  {result.data}/{result.split}"
    counts = [f"{n} with a label of {label}" for label, n in result.n.items()]
    title = f"{where}  {', '.join(counts)}"
    shown = result.metrics if groups else without_groups(result.metrics)
    console.print(metrics_table(title, shown))
    hidden = len(result.metrics) - len(shown)
    if hidden:
        print_line(f"{hidden} metrics of groups: --groups")
    print_line(headline(result.metrics))
    if compared:
        _print_compared(compared)
    return 0


def _compared(run: Path, result: Evaluation, others: Sequence[Evaluation]) -> DeltaM:
    from ..evaluation.best import directions
    from ..evaluation.delta_m import delta_m
    from ..run import Run

    return delta_m(result, others, directions(Run(run).experiment))


def _print_compared(compared: DeltaM) -> None:
    from rich.table import Table
    from rich.text import Text

    from ._shared import console, print_line

    table = Table("metric", "value", "against", "gain", title="against", title_justify="left")
    for change in compared.changes:
        numbers = f"{change.value:.4f}", f"{change.against:.4f}", f"{change.gain:+.1%}"
        table.add_row(Text(change.metric), *numbers)
    console.print(table)
    print_line(f"delta_m {compared.delta_m:+.1%} (the main metric of each task)")
    print_line(f"delta_m_all {compared.delta_m_all:+.1%} (all metrics of each task)")
