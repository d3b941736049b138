"""`mtl compare`: what runs that exist say about each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ._options import Json

Names = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


def compare(
    *runs: Path,
    baseline: str | None = None,
    metric: Names = (),
    test: Annotated[bool, Parameter(negative="")] = False,
    vary: Names = (),
    format_: Annotated[
        Literal["markdown", "csv", "latex"], Parameter(name="--format")
    ] = "markdown",
    plot: Path | None = None,
    json: Json = False,
) -> int:
    """Compare RUNS, paired by seed: differences with intervals, and what they decide.

    Runs that differ only by seed form an arm. Metrics are those on validation at the last step.

    Parameters
    ----------
    runs
        Run folders, or folders of runs.
    baseline
        The arm that the others are compared with: its name, or one of its runs; default: the arm of
        the first run.
    metric
        A metric, such as `fer/accuracy`. Repeatable; default: the first metric of each task.
    test
        Compare on the test split. Each run is evaluated once, and its run.json records each use.
    vary
        A table or key that you compare on purpose, such as `encoder`. Repeatable.
    format_
        The format of the tables. CSV is one table with all numbers; notes go to stderr.
    plot
        Also plot the first metric into this .png, .svg or .pdf file.
    json
        Print JSON.
    """
    from ..callbacks.bars import Bars
    from ..study.compare import compare_runs
    from ..study.plots import require_suffix
    from ._shared import print_json, print_line

    if plot is not None:
        require_suffix(plot)
    with Bars(quiet=json or not test) as bars:
        found = compare_runs(
            runs,
            baseline=baseline,
            metrics=metric,
            split="test" if test else "validation",
            vary=vary,
            progress=bars.progress,
        )
    if plot is not None:
        found.plot(plot)
    if json:
        print_json(found.as_json())
        return 0
    tables = [found.arms_table(), found.differences_table(), found.settings_table()]
    if format_ == "csv":
        tables = [found.long_table()]
    print_line("\n\n".join(table.as_format(format_) for table in tables if table.rows))
    for note in found.notes:  # on stderr, so that the output is one file
        print(f"mtl: note: {note}", file=sys.stderr)
    return 0
