"""`mtl sweep`: one experiment with several values of a key; the best one by validation is written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..sweep import Outcome, Planned, Setting, Sweep


def sweep(
    config: Path,
    *,
    over: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)],
    out: Path | None = None,
    seeds: Annotated[
        tuple[int, ...], Parameter(negative="", consume_multiple=True, show_default=False)
    ] = (),
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
    plugin: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    json: Annotated[bool, Parameter(negative="", show_default=False)] = False,
) -> int:
    """Train CONFIG once for each value and seed, and choose the value on the validation split. The test split is not read.

    The same command goes on where it stopped.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    over
        A key and its values: `--over pretext.puzzling.weight=0,0.1,0.3`. A list is one value in brackets. May be given often:
        then every combination is trained.
    out
        The folder of the sweep; default: CONFIG's name with -sweep, in the current folder.
    seeds
        Train each setting with each of these seeds: `--seeds 0 1 2`; default: that of the configuration.
    set_
        Another value for a key, in all runs. May be given often.
    plugin
        A one-file plugin to load. May be given often.
    json
        Print JSON.
    """

    from ..sweep import Axis, Sweep
    from ..train.trainer import Interrupted
    from ._shared import print_json, say

    axes, out = [Axis.parse(text) for text in over], out or Path(f"{config.stem}-sweep")
    planned = Sweep.plan(config, axes, out, seeds=seeds, overrides=set_, plugin_files=plugin)
    if not json:
        say(f"{len(planned.runs)} runs; they lie in {out}")
    try:
        for number, run in enumerate(planned.runs, 1):
            _train(planned, run, f"{number} of {len(planned.runs)}", json)
    except (Interrupted, KeyboardInterrupt):
        if not json:
            say(f"stopped; the same command goes on from here: the runs lie in {out}")
        return 130
    found, file = planned.choose()
    if json:
        print_json({**found.as_json(), "toml": str(file)})
    else:
        _show(found, file)
    return 0


def _train(planned: Sweep, run: Planned, which: str, quiet: bool) -> None:

    from ..sweep import ENDED
    from ._progress import Bars
    from ._shared import say

    before = run.state
    told = {
        "finished": "finished before",
        "diverged": "diverged before",
        "begun": "goes on",
        "new": "begins",
    }[before]
    if not quiet:
        say(f"run {which}: {run.name} {told}")
    with Bars(quiet=quiet or before in ENDED, title=run.name) as bars:
        planned.train(run, bars)


def _show(found: Outcome, file: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from ._shared import console, say

    better = "higher" if found.higher_is_better else "lower"
    table = Table(*found.settings[0].values, "mean", "sd", "n", "", title_justify="left")
    table.title = Text(f"{found.metric} on validation, last step ({better} is better)")
    for setting in found.settings:
        mark = (
            Text("chosen", "green") if setting is found.chosen else Text(_diverged(setting), "red")
        )
        values = (Text(str(value)) for value in setting.values.values())
        table.add_row(*values, _number(setting.mean), _number(setting.sd), str(setting.n), mark)
    console.print(table)
    if any(setting.n == 1 for setting in found.settings):
        console.print(
            "One seed proves nothing: a seed is worth about a point. Give several by --seeds."
        )
    say(f"train what was chosen: mtl train {file} --out RUN")


def _diverged(setting: Setting) -> str:
    if setting.diverged in (0, setting.n):
        return "diverged" if setting.diverged else ""
    return f"{setting.diverged} of {setting.n} diverged"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
