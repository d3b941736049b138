"""`mtl sweep`: train an experiment with several values of a key, and write the best setting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ._options import Json, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..sweep import Outcome, Planned, Setting, Sweep

STATES = {
    "finished": "already finished",
    "diverged": "already diverged",
    "interrupted": "resumes",
    "new": "starts",
}


def sweep(
    config: Path,
    *,
    over: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)],
    out: Path | None = None,
    seeds: Annotated[
        tuple[int, ...], Parameter(negative="", consume_multiple=True, show_default=False)
    ] = (),
    set_: Overrides = (),
    plugin: PluginFiles = (),
    json: Json = False,
) -> int:
    """Train CONFIG with each value and seed, and choose the value that is best on validation.

    The test split is not read. The same command resumes an interrupted sweep.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    over
        A key and its values: `--over pretext.puzzling.weight=0,0.1,0.3`. Brackets make a list one
        value. Repeatable: then every combination is trained.
    out
        The folder of the sweep; default: CONFIG's name with -sweep, in the current folder.
    seeds
        Train each setting with each of these seeds: `--seeds 0 1 2`; default: the seed of CONFIG.
    set_
        Set one key in all runs. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    json
        Print JSON.
    """
    from ..sweep import Axis, Sweep
    from ..training.stop import Interrupted
    from ._shared import print_json, print_line

    axes = [Axis.parse(text) for text in over]
    folder = out or Path(f"{config.stem}-sweep")
    planned = Sweep.plan(config, axes, folder, seeds=seeds, overrides=set_, plugin_files=plugin)
    if not json:
        print_line(f"{len(planned.runs)} runs in {folder}")
    try:
        for number, run in enumerate(planned.runs, 1):
            _train(planned, run, f"run {number} of {len(planned.runs)}", quiet=json)
    except (Interrupted, KeyboardInterrupt) as stopped:
        if not json:
            print_line(f"stopped; the same command resumes the sweep in {folder}")
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    outcome, file = planned.choose()
    if json:
        print_json({**outcome.as_json(), "toml": str(file)})
    else:
        _print_outcome(outcome, file)
    return 0


def _train(planned: Sweep, run: Planned, title: str, quiet: bool) -> None:
    from ..callbacks.bars import Bars
    from ..sweep import ENDED
    from ._shared import print_line

    state = run.state
    if not quiet:
        print_line(f"{title}: {run.name} {STATES[state]}")
    # A run that has ended is not trained, so it needs no bar.
    with Bars(quiet=quiet or state in ENDED, title=run.name) as bars:
        planned.train(run, bars)


def _print_outcome(outcome: Outcome, file: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from ._shared import console, print_line

    better = "higher" if outcome.higher_is_better else "lower"
    keys = outcome.settings[0].values
    table = Table(*keys, "mean", "sd", "n", "", title_justify="left")
    table.title = Text(f"{outcome.metric} on validation, last step ({better} is better)")
    for setting in outcome.settings:
        mark = Text(_diverged(setting), "red")
        if setting is outcome.chosen:
            mark = Text("chosen", "green")
        values = [Text(str(value)) for value in setting.values.values()]
        table.add_row(*values, _number(setting.mean), _number(setting.sd), str(setting.n), mark)
    console.print(table)
    if any(setting.n == 1 for setting in outcome.settings):
        print_line("A setting has one seed alone. Metrics vary by about a point from seed to seed:")
        print_line("train several, such as --seeds 0 1 2.")
    print_line(f"train the chosen setting: mtl train {file} --out RUN")


def _diverged(setting: Setting) -> str:
    if not setting.diverged:
        return ""
    if setting.diverged == setting.n:
        return "diverged"
    return f"{setting.diverged} of {setting.n} diverged"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
