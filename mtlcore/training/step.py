"""One optimizer step, for every task, pretext, view policy and weighting.

The step knows none of them by name. It never reads a value back to the host. A step whose gradient
norm is not finite changes nothing, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ..contracts import Batch
from ..model.hybrid import HybridModel
from .gradients import backward_cached_weights, backward_per_task, backward_weighted_sum
from .micro_batches import LazyMicroBatches, MicroBatches
from .state import Names, TrainState

Logged = dict[str, Tensor]
"""Device scalars of one step: "loss/<label>", "weight/<label>", "task_weight/<label>",
"grad_norm" and "skipped"; and "unfollowed/<label>" of tasks whose labels may not follow a view."""

Backward = Callable[[TrainState, MicroBatches], tuple[Tensor, Tensor]]


def train_step(train_state: TrainState, batches: Sequence[Batch]) -> Logged:
    """Take one optimizer step on this rank's micro-batches. -> device scalars.

    batches: one or more, as the loader returns them. All ranks have the same number. Each is
    prepared when its forward comes, and its views are freed after its backward.
    """
    micro_batches = LazyMicroBatches(train_state, batches)
    logged = step_on(train_state, micro_batches)
    train_state.encoded = micro_batches.encoded
    return logged | micro_batches.unfollowed()


def step_on(train_state: TrainState, micro_batches: MicroBatches) -> Logged:
    """Take one optimizer step on micro-batches of any origin. -> device scalars."""
    model = train_state.model
    weighting = train_state.experiment.weighting
    names = micro_batches.names
    buffers = [*model.buffers(), *train_state.loss_weighting.buffers()]
    before = [b.clone() for b in buffers]

    must_measure = train_state.must_measure(names)
    model.measuring = must_measure and weighting.at == "features"
    backward = _backward_for(weighting.at, must_measure)
    with _graph_context(weighting.at):
        values, task_weight = backward(train_state, micro_batches)
    _drop_gradients_of_idle_heads(model, names)

    norm = _clip_gradients(train_state)
    ok = torch.isfinite(norm)
    # A bad batch must not stay in the statistics of BatchNorm or of a weighting.
    _restore_unless(ok, buffers, before)
    _step_optimizers(ok, train_state)
    _update_averages(ok, train_state)
    if must_measure and weighting.every > 1:
        train_state.cache_task_weights(names, task_weight, ok)
    train_state.step += 1

    weight, _ = train_state.weights_and_primary(names)
    logged: Logged = {}
    for kind, column in (("loss", values), ("weight", weight), ("task_weight", task_weight)):
        logged |= {f"{kind}/{name}": value for name, value in zip(names, column)}
    return logged | {"grad_norm": norm, "skipped": ~ok}


def _backward_for(at: str, must_measure: bool) -> Backward:
    """The backward for what the weighting reads, `LossWeighting.at`."""
    if at == "losses":
        return backward_weighted_sum
    if at == "parameters" and must_measure:
        return backward_per_task
    return backward_cached_weights


def _graph_context(at: str) -> AbstractContextManager[object]:
    """A context in which the graph of a compiled encoder can be differentiated once a loss."""
    if at != "parameters":
        return nullcontext()
    import torch._functorch.config

    # A compiled encoder frees its saved tensors in the first backward unless this switch is off,
    # both when it is compiled and whenever it runs. torch has one switch for the whole process,
    # so it is restored after the step.
    context: AbstractContextManager[object]
    context = torch._functorch.config.patch(donated_buffer=False)
    return context


def _drop_gradients_of_idle_heads(model: HybridModel, names: Names) -> None:
    """Set gradients to None in heads that no loss of this step uses."""
    # Without a gradient the optimizer applies neither weight decay nor momentum. DDP leaves zeros
    # there, which would count as gradients.
    for label in model.heads.keys() - model.used(names):
        for p in model.heads[label].parameters():
            p.grad = None


def _clip_gradients(train_state: TrainState) -> Tensor:
    """Clip the gradient norm in place. -> () the norm before clipping."""
    norm = train_state.fabric.clip_gradients(
        train_state.module,
        train_state.optimizer,
        max_norm=train_state.experiment.train.clip,
        error_if_nonfinite=False,
    )
    assert norm is not None
    return norm


def _restore_unless(ok: Tensor, buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Copy the old values back into the buffers if the step is bad, without a host sync."""
    for buffer, old in zip(buffers, before):
        buffer.copy_(torch.where(ok, buffer, old))


def _step_optimizers(ok: Tensor, train_state: TrainState) -> None:
    """Step the optimizers, or leave all parameters unchanged if the step is bad."""
    # A fused optimizer skips on the device if `found_inf` is set. Under "16-mixed" the GradScaler
    # decides about the skip.
    bad = (~ok).float()
    if train_state.experiment.train.precision != "16-mixed":
        _set_found_inf(train_state.optimizer.optimizer, bad)
    train_state.optimizer.step()
    train_state.optimizer.zero_grad(set_to_none=True)
    if train_state.loss_weighting_optimizer:
        _set_found_inf(train_state.loss_weighting_optimizer, bad)
        train_state.loss_weighting_optimizer.step()
        train_state.loss_weighting_optimizer.zero_grad(set_to_none=True)


def _set_found_inf(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    optimizer.found_inf = bad  # type: ignore[attr-defined]


def _update_averages(ok: Tensor, train_state: TrainState) -> None:
    """Update all momentum copies; those of a bad step stay unchanged."""
    for copy in train_state.model.followers():
        copy.update(train_state.progress, ok)
    if train_state.ema:
        train_state.ema.update(train_state.progress, ok)
