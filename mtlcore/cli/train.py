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
        Set one key: `--set train.steps=500`. Repeatable. With --resume, only keys that no
        random draw depends on: more train.steps, data.X.root, devices, periods, callbacks.
    plugin
        Load a one-file plugin. Repeatable.
    resume
        Resume this run from its last checkpoint.
    """
    from ..api import train as train_run
    from ..training.stop import Interrupted
    from ._progress import print_result
    from ._shared import print_line

    if resume is not None:
        if config is not None or out is not None:
            raise MtlError("--resume uses the configuration of the run: remove CONFIG and --out")
        folder = resume
    elif config is not None and out is not None:
        folder = out
    else:
        raise MtlError("mtl train needs CONFIG and --out RUN, or --resume RUN")

    try:
        run = train_run(config, folder, overrides=set_, plugins=plugin, resume=resume is not None)
    except Interrupted as stopped:
        print_line(str(stopped))
        return stopped.exit_code
    print_result(run)
    return 0
