"""`mtl sweep`: the smallest study: an experiment with several values of a key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..files import in_shell
from ._options import ConfigFile, Json, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..study.study import Study
    from ..study.sweep import Outcome, Setting


def sweep(
    config: ConfigFile,
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
    """Train CONFIG with each value and seed, and write the value with the best mean on validation.

    The test split is not read. The same command resumes an interrupted sweep. `mtl study` also
    compares pretexts, tunes arms, and adds controls and equal compute.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    over
        A key and its values: `--over pretext.puzzling.weight=0,0.1,0.3`. The first value is the
        baseline. Brackets make a list one value. Repeatable: then every combination is trained.
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
    from ..study.axes import Axis
    from ..study.sweep import plan_sweep, write_outcome
    from ..training.stop import Interrupted
    from ._shared import print_json, print_line

    axes = [Axis.parse(text) for text in over]
    folder = out or Path(f"{config.stem}-sweep")
    study = plan_sweep(config, axes, folder, seeds=seeds, overrides=set_, plugin_files=plugin)
    try:
        _run(study, quiet=json)
    except (Interrupted, KeyboardInterrupt) as stopped:
        if not json:
            print_line(f"stopped; the same command resumes the sweep in {folder}")
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    outcome, file = write_outcome(study, len(axes))
    if json:
        print_json({**outcome.as_json(), "toml": str(file)})
    else:
        _print_outcome(outcome, file)
    return 0


def _run(study: Study, quiet: bool) -> None:
    from ..errors import MtlError
    from ._progress import StudyBars
    from ._shared import print_line

    left = study.plan()
    if not quiet:
        print_line(f"{left.ended + len(left.left)} runs in {study.folder}, {left.ended} are done")
    with StudyBars(quiet=quiet) as bars:
        failed = study.train(say=_nothing if quiet else print_line, reporter=bars)
    if failed:
        listed = "\n  ".join(f"{arm}: {why}" for arm, why in failed.items())
        raise MtlError(f"these settings failed; the same command tries them again:\n  {listed}")


def _nothing(_line: str) -> None:
    pass


def _print_outcome(outcome: Outcome, file: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from ._shared import console, print_line

    better = "higher" if outcome.higher_is_better else "lower"
    keys = outcome.settings[0].values
    table = Table(*keys, "mean", "sd", "n", "", "over the first", title_justify="left")
    table.title = Text(f"{outcome.metric} on validation, last step ({better} is better)")
    for setting in outcome.settings:
        mark = Text(_diverged(setting), "red")
        if setting is outcome.chosen:
            mark = Text("best mean", "green")
        values = [Text(str(value)) for value in setting.values.values()]
        numbers = (_number(setting.mean), _number(setting.sd), str(setting.n))
        table.add_row(*values, *numbers, mark, Text(_verdict(outcome, setting)))
    console.print(table)
    for line in _texts(outcome):
        print_line(line)
    print_line(f"train the setting with the best mean: mtl train {in_shell(file)} --out RUN")


def _verdict(outcome: Outcome, setting: Setting) -> str:
    found = outcome.verdicts.get(setting.arm)
    if found is None:
        return ""
    difference = found.signed(4) if found.difference.n else ""
    return f"{difference} {found.verdict}".strip()


def _texts(outcome: Outcome) -> list[str]:
    """Say what is not decided, and why."""
    if any(setting.n == 1 for setting in outcome.settings):
        return [
            "A setting has one seed alone. Metrics vary by about a point from seed to seed:",
            "train several, such as --seeds 0 1 2.",
        ]
    shown = [f"{arm}: {found.text}" for arm, found in outcome.verdicts.items() if not found.decided]
    if not outcome.verdicts and len(outcome.settings) > 1:
        shown.append("for intervals and verdicts: pip install 'mtlcore[study]'")
    if shown and outcome.verdicts:
        shown.append("Intervals are paired by seed, and corrected for all comparisons (Holm).")
    return shown


def _diverged(setting: Setting) -> str:
    if not setting.diverged:
        return ""
    if setting.diverged == setting.n:
        return "diverged"
    return f"{setting.diverged} of {setting.n} diverged"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
