"""Build and check all parts of a run before its first step."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from attrs import frozen
from lightning_fabric import Fabric

from ..callbacks.guard import Callbacks
from ..callbacks.progress import ProgressReporter, SilentReporter
from ..config.experiment import Experiment
from ..data.dataset import RunData, fit_experiment, index_data, read_images
from ..data.loader import DirectLoader, Loader
from ..data.prefetch import loader_for
from ..data.sampler import Sampler
from ..model.inference import SharedEncoder
from ..runs import RunFolder
from .build import build_train_state, try_weighting
from .checkpoint import Checkpoints
from .devices import fabric_for, with_micro_batches
from .hints import hints_on
from .memory import keep_freed_memory
from .needed_memory import MemoryCheck
from .provenance import environment, resolved
from .record import Record
from .resume import record_changes
from .run_lock import holds_lock, lock_run, unlock_run
from .state import TrainState
from .trial import tolerant, try_run
from .trial_of_optimizer import try_optimizer


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
    # A trainer that was built before in this process, as notebooks do, keeps its lock.
    held = out is not None and holds_lock(out)
    try:
        return _set_up(experiment, out, resume, reporter, fabric)
    except BaseException:
        if out is not None and not held:
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
    _claim(out, resume, fabric)
    if reporter is None or not fabric.is_global_zero:
        reporter = SilentReporter()
    try_weighting(experiment, fabric.device)
    try_optimizer(experiment.optimizer)

    if not resume:
        _try_encoder_if_indexing_decodes(experiment)

    # The test split is for `mtl eval` alone: a run never reads it.
    indexed = index_data(experiment, {"train", "validation"})
    experiment = fit_experiment(experiment, indexed)
    # Reading all images can take hours: first try everything that can fail without them.
    unread = tolerant(read_images(experiment, indexed, lazy=True))
    sampler = Sampler(unread, experiment)
    steps = _steps(experiment, sampler)
    memory = MemoryCheck.before_network(experiment, fabric)
    continues = resume and out is not None and _has_saved(out)
    with memory.building():
        train_state = build_train_state(
            experiment, fabric, steps, sampler.steps_per_epoch, continues
        )
    memory = memory.with_network(train_state.model, experiment)
    record = Record(experiment.train.max_skipped)
    callbacks = Callbacks.of(train_state, unread, out, reporter)
    try_run(train_state, callbacks, unread, DirectLoader(unread, sampler, fabric.device))

    checkpoints = None
    if out is not None:
        checkpoints = Checkpoints(RunFolder(out), train_state, record, callbacks)
    resumed = checkpoints is not None and resume and checkpoints.resume(unread)

    data = read_images(experiment, indexed, reporter.progress)
    hints = hints_on(experiment, data, steps, callbacks.best_by)
    for line in (*data.report, *memory.with_images(data.images), *hints):
        reporter.note(line)
    sampler = Sampler(data, experiment)
    # Unreadable images, which only `data` leaves out, may change both.
    train_state.steps = _steps(experiment, sampler)
    train_state.steps_per_epoch = sampler.steps_per_epoch
    numbers = [train_state.global_micro_batch(i) for i in range(train_state.accumulated)]
    ahead = experiment.input.prefetch
    loader = loader_for(data, sampler, fabric.device, numbers, train_state.steps, ahead)
    callbacks.data = data
    record.start()
    if checkpoints is not None:
        _write_folder(checkpoints, experiment, data, resume=resume, resumed=resumed)
    return RunParts(train_state, data, loader, record, callbacks, checkpoints)


def _claim(out: Path | None, resume: bool, fabric: Fabric) -> None:
    """Lock the run to resume, or refuse a folder that holds a run. All ranks must call it."""
    if out is not None and resume:
        RunFolder.open(out)
        lock_run(out, fabric)
    elif out is not None:
        RunFolder.refuse_existing(out)
    fabric.barrier()


def _has_saved(out: Path) -> bool:
    """Whether a run has a checkpoint, or had one that is missing now: that is an error later.

    A run that was killed before its first checkpoint starts again, from the weights it began with.
    """
    folder = RunFolder(out)
    return folder.checkpoint("last") is not None or "saved" in folder.provenance()


def _write_folder(
    checkpoints: Checkpoints, experiment: Experiment, data: RunData, *, resume: bool, resumed: bool
) -> None:
    """Create the folder of a new run, or record what a resumed run changes.

    resumed: whether a checkpoint was loaded.
    """
    folder, fabric = checkpoints.folder, checkpoints.train_state.fabric
    is_main = fabric.is_global_zero
    if not resume:
        # Only after all checks: a run that can't train leaves nothing behind.
        lock_run(folder.path, fabric)
        if is_main:
            RunFolder.create(folder.path, *resolved(experiment))
    fabric.barrier()
    # A run that was killed before its first checkpoint may not have recorded its environment.
    if is_main and not resumed:
        folder.update_provenance(environment(experiment, data, fabric))
    if is_main and resume:
        record_changes(checkpoints, experiment)
    checkpoints.config = folder.config.read_text(encoding="utf-8")


def _try_encoder_if_indexing_decodes(experiment: Experiment) -> None:
    """Build the encoder once, if even the index of a dataset decodes all of its images.

    Raises MtlError if that fails, such as for a missing file of weights.
    """
    if all(entry.exclude_duplicates == "none" for entry in experiment.data.values()):
        return
    if experiment.train.init_from is not None:  # its weights replace all others
        RunFolder.open(experiment.train.init_from).require()
        return
    with torch.random.fork_rng(devices=[]):
        SharedEncoder(experiment.encoder, experiment.input.size)


def _steps(experiment: Experiment, sampler: Sampler) -> int:
    """Optimizer steps of the run, from `train.steps` or `train.epochs`."""
    epochs = experiment.train.epochs or 1
    # 1.1 epochs of 100 steps are 110 steps, although their floating-point product is a bit larger.
    return experiment.train.steps or max(1, math.ceil(round(epochs * sampler.steps_per_epoch, 6)))
