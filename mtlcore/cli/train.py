"""`mtl train`: train an experiment, or resume a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import MtlError
from ._options import Overrides, PluginFiles

RESUMABLE = "train.devices"  # the key that a resumed run may change: it is the same run


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
        Set one key: `--set train.steps=500`. Repeatable. With --resume, only train.devices.
    plugin
        Load a one-file plugin. Repeatable.
    resume
        Resume this run from its last checkpoint.
    """
    from ..config import load
    from ..runs import RunFolder
    from ..training.stop import Interrupted
    from ..training.trainer import train as train_run
    from ._progress import Bars, print_result
    from ._shared import print_line

    if resume is not None:
        if config is not None or out is not None:
            raise MtlError("--resume uses the configuration of the run: remove CONFIG and --out")
        _require_resumable(set_)
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


def _require_resumable(overrides: Sequence[str]) -> None:
    """Raise MtlError if an override sets another key than a resumed run may change."""
    from ..config.overrides import parse_override

    keys = [".".join(parse_override(override)[0]) for override in overrides]
    refused = [key for key in keys if key != RESUMABLE]
    if refused:
        raise MtlError(
            f"--resume uses the configuration of the run, where --set can't change "
            f"{', '.join(refused)}: remove it. Only {RESUMABLE} can change: "
            f"--set {RESUMABLE}=2"
        )
