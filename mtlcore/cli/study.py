"""`mtl study`: compare arms over seeds: write a study, run it, and read what it decides."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..files import in_shell
from ._options import PluginFiles

if TYPE_CHECKING:
    from ..study.report import Report
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
    print_line(f"run it: mtl study run {in_shell(file)}")
    return 0


def run(
    study: Path,
    *,
    out: Out = None,
    jobs: int = 1,
    arms: Arms = (),
    launcher: Literal["local", "ray"] = "local",
    cpus: int = 1,
    gpus: Annotated[float | None, Parameter(show_default=False)] = None,
    list_: Annotated[bool, Parameter(name="--list", negative="")] = False,
    only: Annotated[int | None, Parameter(show_default=False)] = None,
    collect: Annotated[
        tuple[Path, ...], Parameter(negative="", consume_multiple=True, show_default=False)
    ] = (),
) -> int:
    """Train the runs of STUDY that are left, and print its tables. The same command resumes.

    Parameters
    ----------
    study
        The study, a TOML file.
    out
        The folder of the study; default: STUDY without its ending. Several processes may share it.
    jobs
        The number of processes to start on this machine.
    arms
        Train these arms alone.
    launcher
        "ray" trains on the Ray cluster of RAY_ADDRESS, or on this machine.
    cpus
        With Ray: processor cores of each run.
    gpus
        With Ray: GPUs of each run, such as 0.5; default: 1 if the cluster has any.
    list_
        Number the runs that are left, one a line, and train nothing.
    only
        Train the run with this number of `--list` alone, and print no table.
    collect
        Add the ended runs of these other folders of the study, train nothing, and print the tables.
    """
    from ..errors import MtlError
    from ..training.stop import Interrupted
    from ._shared import print_line

    asked = [
        name
        for name, given in (("--list", list_), ("--only", only), ("--collect", collect))
        if given not in (False, None, ())
    ]
    if len(asked) > 1:
        raise MtlError(f"{' and '.join(asked)}: choose one of them")
    unused = [
        name
        for name, given in (
            ("--jobs", jobs != 1),
            ("--launcher", launcher != "local"),
            ("--arms", arms and not list_),
        )
        if given
    ]
    if asked and unused:
        raise MtlError(f"{' and '.join(unused)}: {asked[0]} does not use it: remove it")
    if launcher == "local" and (gpus is not None or cpus != 1):
        raise MtlError("--cpus and --gpus are for --launcher ray: add it, or remove them")
    if launcher == "ray" and jobs != 1:
        raise MtlError("--jobs is for one machine; with --launcher ray, --cpus sets how many fit")
    loaded = _load(study, out)
    if list_:
        return _print_list(loaded, arms)
    if collect:
        return _collect(loaded, collect)
    try:
        if only is not None:
            return _train_number(loaded, only)
        found = _train_all(loaded, jobs, arms, launcher, cpus, gpus)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print_line(f"stopped; the same command resumes the study in {loaded.folder}")
        return stopped.exit_code if isinstance(stopped, Interrupted) else 130
    print(found)
    return 2 if found.errors else 0


def _train_all(
    study: Study, jobs: int, arms: tuple[str, ...], launcher: str, cpus: int, gpus: float | None
) -> Report:
    from ._progress import StudyBars
    from ._shared import print_line

    if launcher == "ray":
        from ..study.launchers.on_ray import run_on_ray

        run_on_ray(study, cpus=cpus, gpus=gpus, arms=arms, say=print_line)
        return study.table()
    with StudyBars(quiet=jobs > 1) as bars:
        return study.run(jobs=jobs, arms=arms, say=print_line, reporter=bars)


def _print_list(study: Study, arms: tuple[str, ...]) -> int:
    from ..study.launchers.one import numbered
    from ._shared import print_line

    for number, name in enumerate(numbered(study, arms), 1):
        print_line(f"{number} {name}")
    return 0


def _train_number(study: Study, number: int) -> int:
    from ..study.launchers.one import name_of_number, train_one
    from ._progress import StudyBars
    from ._shared import print_line

    name = name_of_number(study, number)
    with StudyBars() as bars:
        failed = train_one(study, name, print_line, bars)
    return 2 if failed else 0


def _collect(study: Study, folders: tuple[Path, ...]) -> int:
    from ..study.launchers.one import collect
    from ._shared import print_line

    print_line(f"added {len(collect(study, folders))} runs")
    print(study.table())
    return 0


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
        The format of the output. csv has the table of the arms alone.
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
