"""`mtl study`: compare arms over seeds: write a study, run it, and read what it decides."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ._options import PluginFiles

if TYPE_CHECKING:
    from ..study.study import Study

Out = Annotated[Path | None, Parameter(name="--out", show_default=False)]
Arms = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True, show_default=False)]
Several = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


def new(
    config: Path,
    *,
    vary: Several,
    tune: Several = (),
    seeds: Annotated[int, Parameter(show_default=True)] = 3,
    out: Out = None,
    plugin: PluginFiles = (),
) -> int:
    """Write a study of CONFIG: a TOML file to read, edit and run.

    Parameters
    ----------
    config
        The experiment that all arms share, a TOML file.
    vary
        What the arms differ in: `--vary pretext=puzzling,rotation` has an arm for each pretext and
        one without; `--vary weighting=...` and `--vary encoder=...` take names; any other key takes
        values: `--vary train.ema=0,0.99`. Repeatable: then every combination is an arm.
    tune
        A key and its values, to tune for each arm: `--tune optimizer.lr=1e-3,3e-3`. Repeatable.
    seeds
        The number of seeds.
    out
        The study file; default: CONFIG's name with -study.toml, beside it.
    plugin
        Load a one-file plugin. Repeatable.
    """
    from ..study.new import new_study
    from ._shared import print_line

    file = out or config.with_name(f"{config.stem}-study.toml")
    study = new_study(config, vary, file, tune=tune, seeds=seeds, plugins=plugin)
    print_line(f"wrote {file}: {len(study.arms)} arms, {len(study.seeds)} seeds")
    print_line(f"run it: mtl study run {file}")
    return 0


def run(study: Path, *, out: Out = None, jobs: int = 1, arms: Arms = ()) -> int:
    """Train the runs of STUDY that are left, and print its tables. The same command resumes.

    Parameters
    ----------
    study
        The study, a TOML file.
    out
        The folder of the study; default: STUDY without its ending. Several processes may share it.
    jobs
        Processes of this machine.
    arms
        Train these arms alone.
    """
    from ..training.stop import Interrupted
    from ._progress import StudyBars
    from ._shared import print_line

    loaded = _load(study, out)
    try:
        with StudyBars(quiet=jobs > 1) as bars:
            found = loaded.run(jobs=jobs, arms=arms, say=print_line, reporter=bars)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print_line(f"stopped; the same command resumes the study in {loaded.folder}")
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    print(found)
    return 2 if found.errors else 0


def plan(study: Path, *, out: Out = None) -> int:
    """Print the runs of STUDY that are left, with their estimated compute.

    Parameters
    ----------
    study
        The study, a TOML file.
    out
        The folder of the study; default: STUDY without its ending.
    """
    from ._shared import print_line

    for line in _load(study, out).plan().lines():
        print_line(line)
    return 0


def table(
    study: Path,
    *,
    out: Out = None,
    format_: Annotated[
        Literal["markdown", "csv", "latex"], Parameter(name="--format")
    ] = "markdown",
    test: Annotated[bool, Parameter(negative="")] = False,
    arms: Arms = (),
    plot: Annotated[Path | None, Parameter(show_default=False)] = None,
) -> int:
    """Print what the finished runs of STUDY say, and write it to its folder.

    Parameters
    ----------
    study
        The study, a TOML file.
    out
        The folder of the study; default: STUDY without its ending.
    format_
        Of the output. csv has the table of the arms alone.
    test
        Evaluate on the test split. Read it once, after all choices: each reading is recorded in
        test_reads.jsonl, and a reading for another choice warns.
    arms
        With --test: evaluate these arms alone.
    plot
        Also write a plot with intervals into this .png, .svg or .pdf file.
    """
    from ..errors import MtlError

    if arms and not test:
        raise MtlError("--arms chooses what --test evaluates: add --test, or remove --arms")
    with _warnings_as_lines():
        found = _load(study, out).table(test=test, arms=arms, plot=plot)
    print(found.as_format(format_))
    return 0


def again(study: Path, run: str, *, out: Out = None) -> int:
    """Train a finished RUN of STUDY again. Exit code 0 if it is the same, bit for bit, else 1.

    Parameters
    ----------
    study
        The study, a TOML file.
    run
        The name of the run, as `mtl study run` prints it.
    out
        The folder of the study; default: STUDY without its ending.
    """
    from ._progress import StudyBars
    from ._shared import print_line

    with StudyBars() as bars:
        repeated = _load(study, out).again(run, bars)
    for line in repeated.lines():
        print_line(line)
    return 0 if repeated.same else 1


def _load(study: Path, out: Path | None) -> Study:
    from ..study.study import Study

    return Study.load(study, out)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show each warning once, also where a filter of the user would hide it."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield
