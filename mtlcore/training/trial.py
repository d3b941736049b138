"""Try everything that a run does, before its images are read and its folder is created.

Training normalizes by the batch, draws dropout and computes gradients; evaluation does not, and it
computes metrics. Each can fail alone, so both are tried. A trial changes no draw, no buffer and no
weight: the run that follows computes the same without it, bit for bit.
"""

from __future__ import annotations

import json
import warnings
from itertools import takewhile

import numpy as np
import torch
from attrs import evolve

from ..callbacks.guard import Callbacks
from ..callbacks.untouched import restored_generators
from ..contracts import Batch
from ..data.cache import OnDemandImageCache
from ..data.dataset import RunData
from ..data.loader import Loader
from ..errors import MtlError
from ..evaluation.measure import measure, measure_pretexts
from ..networks import single_rank
from ..registry.records import one_line
from .buffers import Buffers
from .build import PLUGIN_FAILURES, dry_run
from .micro_batches import LazyMicroBatches
from .state import TrainState
from .step import Logged, differentiate, measure_if_due

MOST_LINES = 3  # of a compiler's error in a message
NEARLY_ALL = 0.999  # a share that is 1 up to rounding
SAMPLES = 64  # validation samples with a label of a task, on which its metrics are tried


def tolerant(unread: RunData) -> RunData:
    """The data of `read_images(lazy=True)`, with black images for unreadable samples.

    A run leaves such samples out, so they must not end its trial.
    """
    assert isinstance(unread.images, OnDemandImageCache)
    return evolve(unread, images=evolve(unread.images, strict=False))


def try_run(train_state: TrainState, callbacks: Callbacks, data: RunData, loader: Loader) -> None:
    """Try the first step, an evaluation, and the checks of callbacks. All ranks must call it.

    Raises MtlError for the first thing that fails.
    """
    # Eval mode first, as in every run: an encoder that calls torch.compile itself depends on the
    # order of batch shapes.
    first = loader.batch(0, 0)
    dry_run(train_state, first)
    batches: list[Batch] = []
    for number in range(train_state.accumulated):
        batches.append(loader.batch(0, train_state.global_micro_batch(number)))
    if train_state.experiment.train.compile:
        unfollowed = try_compiled_step(train_state, callbacks, batches)
    else:
        unfollowed = try_step(train_state, batches)
    _note_lost_labels(callbacks, unfollowed)
    try_evaluation(train_state, callbacks, data)
    if callbacks.folder is not None:
        callbacks.check()


def try_step(train_state: TrainState, batches: list[Batch]) -> Logged:
    """Compute the losses and gradients of the first step as training does, and discard them.

    Returns "unfollowed/<task>" -> (), the share of labels that can't be moved to a view. Raises
    MtlError if the step fails.
    """
    model, loss_weighting = train_state.model, train_state.loss_weighting
    before, measuring = Buffers.of(model, loss_weighting), model.measuring
    # Without DDP's wrapper: it arranges its messages by the first backward that it sees.
    trial = evolve(train_state, module=model)
    micro_batches = LazyMicroBatches(trial, batches)
    try:
        with restored_generators(train_state.fabric.device), torch.enable_grad():
            measure_if_due(trial, micro_batches.names)
            differentiate(trial, micro_batches)
            return micro_batches.unfollowed()
    except PLUGIN_FAILURES as error:
        raise MtlError(_step_failed(trial, batches, error)) from error
    finally:
        before.restore()
        model.measuring = measuring
        model.zero_grad(set_to_none=True)
        loss_weighting.zero_grad(set_to_none=True)


def _note_lost_labels(callbacks: Callbacks, unfollowed: Logged) -> None:
    """Say which tasks the first step teaches nothing, since no view keeps a label of theirs."""
    for name, share in unfollowed.items():
        if float(share) > NEARLY_ALL:
            _, _, label = name.partition("/")
            callbacks.note(
                f"[task.{label}] no label of the first step can follow the pixels of the views "
                "that its head reads, so this step does not train it; if a pretext shuffles these "
                'views, set views.supervised = "clean" or "both"'
            )


def try_compiled_step(
    train_state: TrainState, callbacks: Callbacks, batches: list[Batch]
) -> Logged:
    """Compile the encoder, and try a step with it.

    If only the compiled step fails, `train.compile = "try"` goes on without, and says so. Raises
    MtlError in all other cases.
    """
    encoder = train_state.model.encoder
    encoder.compile_training()
    try:
        return try_step(train_state, batches)
    except MtlError as error:
        encoder.compile_training(False)
        unfollowed = try_step(train_state, batches)  # not the compiler's fault if this fails, too
        value = train_state.experiment.train.compile
        setting = f"train.compile = {json.dumps(value)}: the encoder can't be compiled"
        reason = _reason(error.__cause__ or error)
        if value != "try":
            raise MtlError(
                f'{setting}: {reason}: set train.compile = false, or "try" to train without '
                "compiling it where that fails"
            ) from error
        callbacks.note(f"{setting}, and is trained without: {reason}")
        return unfollowed


def _reason(error: BaseException) -> str:
    """The first lines of an error of torch.compile: what failed, why, and in which line of code."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = list(takewhile(lambda line: not line.startswith("Developer debug context"), lines))
    place = [line for line in lines if line.startswith("File ")]
    return " ".join([*filter(None, told[:MOST_LINES]), *place[-1:]]) or type(error).__name__


def _step_failed(train_state: TrainState, batches: list[Batch], error: Exception) -> str:
    experiment = train_state.experiment
    count = experiment.train.micro_batches or 1
    names = ", ".join(experiment.entries)
    reason = "; ".join([one_line(error), *getattr(error, "__notes__", ())])
    message = (
        f"a trial of the first training step failed ({names}; input.batch_size = "
        f"{experiment.input.batch_size} in {count} micro-batch(es)): {reason}"
    )
    if min(len(batch.images) for batch in batches) > 1:
        return message
    return (
        f"{message}. A micro-batch has 1 sample; BatchNorm and losses that compare samples need "
        f"at least 2: set input.batch_size to at least {2 * count}"
    )


def try_evaluation(train_state: TrainState, callbacks: Callbacks, data: RunData) -> None:
    """Compute every metric once, on some validation samples.

    Raises MtlError that names the task and the metric if one fails on ALL validation samples.
    """
    every = data.split.get("validation")
    if every is None or not len(every):
        return
    some = _some_samples(data, every)
    with (
        # Each rank evaluates the same samples, so that all of them raise the same error.
        single_rank(),
        restored_generators(train_state.fabric.device),
        warnings.catch_warnings(),
    ):
        # A metric may warn about a class that these few samples lack.
        warnings.simplefilter("ignore")
        try:
            _measure(train_state, callbacks, data, some)
        except MtlError:
            if len(some) == len(every):
                raise
            # It may need more samples than these, such as one of each class.
            _measure(train_state, callbacks, data, every)


def _measure(
    train_state: TrainState, callbacks: Callbacks, data: RunData, indices: np.ndarray
) -> None:
    experiment, device = train_state.experiment, train_state.fabric.device
    try:
        measure(callbacks.network, experiment, data, indices, device)
        measure_pretexts(train_state.model, experiment, data, indices, device)
    except PLUGIN_FAILURES as error:
        names = ", ".join(experiment.entries)
        raise MtlError(f"a trial of the evaluation failed ({names}): {one_line(error)}") from error


def _some_samples(data: RunData, every: np.ndarray) -> np.ndarray:
    """The first samples, and the first labeled samples of each task, in ascending order.

    every: (N,) all validation samples.
    """
    chosen = [every[:SAMPLES]]
    for present in data.present.values():
        labeled = every[present.numpy()[every]]
        chosen.append(labeled[:SAMPLES])
    return np.unique(np.concatenate(chosen))
