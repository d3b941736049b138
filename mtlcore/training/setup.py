"""Build and check all parts of a run before its first step."""

from __future__ import annotations

import math
from pathlib import Path

from attrs import frozen
from lightning_fabric import Fabric

from ..callbacks.guard import Callbacks
from ..callbacks.progress import ProgressReporter, SilentReporter
from ..config.experiment import Experiment
from ..data.dataset import RunData, open_data
from ..data.loader import DirectLoader, Loader
from ..data.sampler import Sampler
from ..runs import RunFolder
from .build import build_train_state, dry_run, try_weighting
from .checkpoint import Checkpoints
from .devices import fabric_for, with_micro_batches
from .memory import keep_freed_memory
from .provenance import environment, resolved
from .record import Record
from .resume import record_changes
from .run_lock import lock_run, unlock_run
from .state import TrainState


@frozen(eq=False)
class RunParts:
    """The parts of a run. checkpoints: None if the run has no folder."""

    train_state: TrainState
    data: RunData
    loader: Loader
    record: Record
    callbacks: Callbacks
    checkpoints: Checkpoints | None


def set_up(
    experiment: Experiment,
    out: Path | None,
    resume: bool = False,
    reporter: ProgressReporter | None = None,
) -> RunParts:
    """Read the data, build the networks, and create or resume the run folder: ready to step.

    out: the run folder. None: no folder, and no callbacks of the experiment.
    Raises MtlError for everything that a user can correct.
    """
    keep_freed_memory()
    fabric = fabric_for(experiment)
    try:
        return _set_up(experiment, out, resume, reporter, fabric)
    except BaseException:
        if out is not None:
            unlock_run(out)
        raise


def _set_up(
    experiment: Experiment,
    out: Path | None,
    resume: bool,
    reporter: ProgressReporter | None,
    fabric: Fabric,
) -> RunParts:
    experiment = with_micro_batches(experiment, fabric.world_size)
    is_main = fabric.is_global_zero
    # On every rank, and before any image is read.
    if out is not None and resume:
        RunFolder.open(out)
        lock_run(out, fabric)
    elif out is not None:
        RunFolder.refuse_existing(out)
    fabric.barrier()
    if reporter is None or not is_main:
        reporter = SilentReporter()
    try_weighting(experiment, fabric.device)

    # The test split is for `mtl eval` alone: a run never reads it.
    experiment, data = open_data(experiment, {"train", "validation"}, reporter.progress)
    for line in data.report:
        reporter.note(line)
    sampler = Sampler(data, experiment)
    loader = DirectLoader(data, sampler, fabric.device)
    steps = _steps(experiment, sampler)
    train_state = build_train_state(experiment, fabric, steps, sampler.steps_per_epoch, resume)
    dry_run(train_state, loader.batch(0, 0))

    record = Record(experiment.train.max_skipped)
    callbacks = Callbacks.of(train_state, data, out, reporter)
    if out is None:
        return RunParts(train_state, data, loader, record, callbacks, None)

    callbacks.check()
    if not resume:
        # Only after all checks: a run that cannot train leaves nothing behind.
        lock_run(out, fabric)
        if is_main:
            RunFolder.create(out, *resolved(experiment))
    fabric.barrier()
    checkpoints = Checkpoints(RunFolder(out), train_state, record, callbacks)
    resumed = resume and checkpoints.resume(data)
    # A run that was killed before its first checkpoint may not have recorded its environment.
    if is_main and not resumed:
        checkpoints.folder.update_provenance(environment(experiment, data, fabric))
    if is_main and resume:
        record_changes(checkpoints, experiment)
    checkpoints.config = checkpoints.folder.config.read_text(encoding="utf-8")
    return RunParts(train_state, data, loader, record, callbacks, checkpoints)


def _steps(experiment: Experiment, sampler: Sampler) -> int:
    """Optimizer steps of the run, from `train.steps` or `train.epochs`."""
    epochs = experiment.train.epochs or 1
    return experiment.train.steps or math.ceil(epochs * sampler.steps_per_epoch)
