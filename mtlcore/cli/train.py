"""`mtl train`: train an experiment, or resume a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import MtlError
from ..files import in_shell
from ._options import ConfigFile, Json, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..callbacks.progress import ProgressReporter
    from ..run import Run
    from ..training.dry_run import DryRun

Flag = Parameter(negative="", show_default=False)


def train(
    config: ConfigFile | None = None,
    *,
    out: Path | None = None,
    set_: Overrides = (),
    plugin: PluginFiles = (),
    resume: Path | None = None,
    dry_run: Annotated[bool, Flag] = False,
    quiet: Annotated[bool, Flag] = False,
    json: Json = False,
) -> int:
    """Train CONFIG into the folder OUT, or resume a run.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    out
        The folder of the new run.
    set_
        Set one key: `--set train.steps=500`. Repeatable. With --resume, only keys that no
        random draw depends on: more train.steps, data.X.root, devices, periods, callbacks.
    plugin
        Load a one-file plugin. Repeatable.
    resume
        Resume this run from its last checkpoint.
    dry_run
        Read and check everything, take a few steps, estimate time and memory, write nothing.
    quiet
        Print errors alone.
    json
        Print events as JSON, one a line.
    """
    if quiet and json:
        raise MtlError("--quiet prints nothing, --json prints events: remove one of them")
    if dry_run and resume is not None:
        raise MtlError("--dry-run tries CONFIG: remove --resume")
    if dry_run and config is None:
        raise MtlError("mtl train --dry-run needs CONFIG")
    folder = _folder(config, out, resume, dry_run)
    if not (quiet or json):
        _greet(config, folder, resume, dry_run)
    if dry_run:
        assert config is not None
        return _dry_run(config, out, set_, plugin, quiet, json)
    assert folder is not None
    return _train(config, folder, set_, plugin, resume is not None, quiet, json)


def _folder(
    config: Path | None, out: Path | None, resume: Path | None, dry_run: bool
) -> Path | None:
    """The folder of the run. Raises MtlError where the options do not name one."""
    if resume is not None:
        if config is not None or out is not None:
            raise MtlError("--resume uses the configuration of the run: remove CONFIG and --out")
        return resume
    if config is not None and (out is not None or dry_run):
        return out
    raise MtlError("mtl train needs CONFIG and --out RUN, or --resume RUN")


def _greet(config: Path | None, folder: Path | None, resume: Path | None, dry_run: bool) -> None:
    """Print a line at once: importing torch takes seconds. A missing file is an error alone."""
    from ..files import exists
    from ._shared import print_line

    if not exists(resume or config or Path()):
        return
    if dry_run:
        print_line(f"trying {config}: nothing is written")
    elif resume is not None:
        print_line(f"resuming {resume}")
    else:
        print_line(f"training {config} into {folder}")


def _train(
    config: Path | None,
    folder: Path,
    overrides: tuple[str, ...],
    plugins: tuple[Path, ...],
    resume: bool,
    quiet: bool,
    json: bool,
) -> int:
    from ..api import train as train_run
    from ..callbacks.events import JsonEvents, print_event
    from ..training.stop import Interrupted
    from ._progress import print_result
    from ._shared import print_line

    progress: bool | ProgressReporter = JsonEvents() if json else not quiet
    try:
        run = train_run(
            config, folder, overrides=overrides, plugins=plugins, resume=resume, progress=progress
        )
    except Interrupted as stopped:
        if json:
            print_event("stopped", text=str(stopped))
        elif not quiet:
            print_line(str(stopped))
        return stopped.exit_code
    if json:
        _print_end(run)
    elif not quiet:
        print_result(run)
    return 0


def _print_end(run: Run) -> None:
    from ..callbacks.events import print_event

    names = ("steps", "skipped", "cpu_s", "wall_s", "validation", "stopped_early")
    ended = {name: run.summary[name] for name in names if name in run.summary}
    print_event("end", run=str(run.path), **ended)


def _dry_run(
    config: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    plugins: tuple[Path, ...],
    quiet: bool,
    json: bool,
) -> int:
    from attrs import asdict

    from ..callbacks.bars import Bars
    from ..config import load
    from ..training.dry_run import dry_run
    from ._shared import print_json

    experiment = load(config, overrides, plugins)
    with Bars(quiet=quiet or json) as bars:
        found = dry_run(experiment, out, bars)
    if json:
        print_json({**asdict(found), "seconds": found.seconds})
    elif not quiet:
        _print_dry_run(found, config, out)
    return 0


def _print_dry_run(found: DryRun, config: Path, out: Path | None) -> None:
    from ..report.numbers import seconds
    from ._shared import print_line

    samples = ", ".join(f"{n:,} {name}" for name, n in found.samples.items())
    total = max(found.memory.total, found.peak)
    print_line(f"samples: {samples}")
    print_line(
        f"{found.steps:,} steps of {found.seconds_per_step:.3f} s: about {seconds(found.seconds)}, "
        "plus evaluations"
    )
    print_line(f"memory: at least {total / 2**30:.2f} GiB")
    print_line(f"train it: mtl train {in_shell(config)} --out {in_shell(out or 'RUN')}")
