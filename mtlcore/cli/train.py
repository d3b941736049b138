"""`mtl train`: train an experiment, or go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import MtlError


def train(
    config: Path | None = None,
    *,
    out: Path | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="", show_default=False)] = (),
    plugin: Annotated[tuple[Path, ...], Parameter(negative="", show_default=False)] = (),
    resume: Path | None = None,
) -> int:
    """Train CONFIG into the folder OUT, or go on with a run.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    out
        The folder of the new run.
    set_
        Another value for a key: `--set train.steps=500`. May be given often.
    plugin
        A one-file plugin to load. May be given often.
    resume
        A run to go on with, from its last checkpoint.
    """
    from ..config import load
    from ..train.trainer import Interrupted, train
    from ._progress import Bars, say_result

    if resume is None and (config is None or out is None):
        raise MtlError("mtl train needs CONFIG and --out RUN, or --resume RUN")
    if resume is not None and (config is not None or out is not None or set_):
        raise MtlError(
            "--resume goes on with the run's own configuration: leave CONFIG, --out and --set away"
        )
    source = resume / "config.toml" if resume is not None else config
    assert source is not None
    if resume is not None and not source.is_file():
        raise MtlError(f"{resume} is no run: it holds no config.toml")
    experiment = load(source, set_, plugin)
    folder = resume if resume is not None else out
    assert folder is not None
    try:
        with Bars() as bars:
            result = train(experiment, folder, resume=resume is not None, reporter=bars)
    except Interrupted as stopped:
        from ._shared import console

        console.print(str(stopped), markup=False, highlight=False)
        return 130
    say_result(result)
    return 0
