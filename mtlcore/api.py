"""Train and load runs: what `import mtlcore` and the command line call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import evolve

from .callbacks.bars import reporter_of
from .callbacks.progress import ProgressReporter
from .config import load, resolve
from .config.experiment import Experiment
from .config.load import Where
from .config.overrides import Overrides
from .contracts import Callback
from .errors import MtlError
from .files import expanded
from .run import Run
from .runs import RunFolder
from .training.one_at_a_time import only_training
from .training.resume import experiment_to_resume
from .training.trainer import train as train_run


def train(
    experiment: Experiment | Where | None,
    out: Where,
    *,
    overrides: Overrides | None = None,
    plugins: Sequence[Where] = (),
    resume: bool = False,
    callbacks: Mapping[str, Callback] | None = None,
    progress: bool | ProgressReporter = True,
) -> Run:
    """Train an experiment into a new folder, or resume the run of a folder.

    experiment: an `Experiment`, or the path of a TOML file.
    out: the folder of the run.
    overrides: dotted key -> value, such as {"train.steps": 500}. None removes a key.
    plugins: one-file plugins, in addition to those that the experiment lists.
    resume: continue the run in `out` from its last checkpoint, with its saved configuration. Pass
    None as `experiment`, or the experiment that the run was started with. Only keys that no random
    draw depends on may differ, such as `train.steps`, `train.devices`, callbacks and the paths of
    the data: docs/python.md lists them.
    callbacks: callbacks of the run, each under a label, in addition to those of the experiment.
    progress: show progress bars in the terminal or the notebook. The command line passes
    its own `ProgressReporter`.

    Raises MtlError for everything that a user can correct; where possible, before the run writes
    anything. After Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, saves the run and raises Interrupted.
    Outside of the main thread, signals are not handled. A process trains one run at a time: a
    second call raises MtlError.
    """
    folder = Path(out)
    with only_training(folder):
        if resume:
            complete = _to_resume(experiment, folder, overrides or {}, plugins, callbacks)
        else:
            complete = _complete(experiment, overrides or {}, plugins, callbacks)
        reporter, shown = reporter_of(progress)
        with shown:
            train_run(complete, folder, resume=resume, reporter=reporter)
    return Run(folder)


def load_run(path: Where) -> Run:
    """Return the run of a folder.

    Raises MtlError if the folder holds no run. Its log and its summary can be read without the
    plugins of the run; a component that is missing raises MtlError when the experiment, the network
    or an evaluation is requested.
    """
    return Run(RunFolder.open(Path(path)).path)


def _complete(
    given: Experiment | Where | None,
    overrides: Overrides,
    plugins: Sequence[Where],
    callbacks: Mapping[str, Callback] | None,
) -> Experiment:
    """The experiment to train, as it would be read from its TOML file."""
    if isinstance(given, str | os.PathLike):
        given, overrides, plugins = load(given, overrides, plugins), {}, ()
        if not callbacks:
            return given
    if not isinstance(given, Experiment):
        raise MtlError(
            f"experiment = {given!r}: expected an mtlcore.Experiment, or the path of a TOML file"
        )
    files = [os.fspath(expanded(file).absolute()) for file in plugins]
    given = evolve(
        given,
        plugins=(*given.plugins, *files),
        callbacks={**given.callbacks, **(callbacks or {})},
    )
    return resolve(given, overrides)


def _to_resume(
    given: Experiment | Where | None,
    folder: Path,
    overrides: Overrides,
    plugins: Sequence[Where],
    callbacks: Mapping[str, Callback] | None,
) -> Experiment:
    """The experiment of the run in `folder`. Raises MtlError if `given` differs."""
    if given is not None:
        complete = _complete(given, overrides, plugins, callbacks)
    else:
        run = RunFolder.open(folder)
        complete = run.experiment(overrides, [Path(file) for file in plugins])
        if callbacks:
            added = {**complete.callbacks, **callbacks}
            complete = resolve(evolve(complete, callbacks=added))
    return experiment_to_resume(complete, folder)
