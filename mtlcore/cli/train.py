"""`mtl train`: train an experiment, or resume a run."""

from __future__ import annotations

from pathlib import Path

from ..errors import MtlError
from ._options import Overrides, PluginFiles


def train(
    config: Path | None = None,
    *,
    out: Path | None = None,
    set_: Overrides = (),
    plugin: PluginFiles = (),
    resume: Path | None = None,
) -> int:
    """Train CONFIG into the folder OUT, or resume a run.

    Parameters
    ----------
    config
        The experiment, a TOML file.
    out
        The folder of the new run.
    set_
        Set one key: `--set train.steps=500`. Repeatable.
    plugin
        Load a one-file plugin. Repeatable.
    resume
        Resume this run from its last checkpoint.
    """
    from ..config import load
    from ..runs import RunFolder
    from ..train.stop import Interrupted
    from ..train.trainer import train as train_run
    from ._progress import Bars, print_result
    from ._shared import print_line

    if resume is not None:
        if config is not None or out is not None or set_:
            raise MtlError(
                "--resume uses the configuration of the run: remove CONFIG, --out and --set"
            )
        folder = resume
        source = RunFolder.open(resume).config
    elif config is not None and out is not None:
        folder = out
        source = config
    else:
        raise MtlError("mtl train needs CONFIG and --out RUN, or --resume RUN")

    experiment = load(source, set_, plugin)
    try:
        with Bars() as bars:
            result = train_run(experiment, folder, resume=resume is not None, reporter=bars)
    except Interrupted as stopped:
        print_line(str(stopped))
        return 130
    print_result(result)
    return 0
