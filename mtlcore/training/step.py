"""One optimizer step, for every task, pretext, view policy and weighting.

The step knows none of them by name. It never reads a value back to the host. A step whose gradient
norm is not finite changes nothing, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from attrs import frozen
from lightning_fabric.wrappers import _FabricOptimizer
from torch import Tensor, nn

from ..contracts import Batch
from ..model.hybrid import HybridModel
from .buffers import Buffers
from .gradients import backward_cached_weights, backward_per_task, backward_weighted_sum
from .micro_batches import LazyMicroBatches, MicroBatches
from .optim import skips_on_device
from .state import Names, TrainState

Logged = dict[str, Tensor]
"""Device scalars of one step: "loss/<label>", "weight/<label>", "task_weight/<label>",
"grad_norm" and "skipped"; and "unfollowed/<label>" for tasks whose `move` returns shares."""

Backward = Callable[[TrainState, MicroBatches], tuple[Tensor, Tensor]]


def train_step(train_state: TrainState, batches: Sequence[Batch]) -> Logged:
    """Take one optimizer step on this rank's micro-batches. -> device scalars.

    batches: one or more, as the loader returns them. All ranks have the same number. Each is
    prepared just before its forward, and its views are freed after its backward.
    """
    micro_batches = LazyMicroBatches(train_state, batches)
    logged = step_on(train_state, micro_batches)
    train_state.encoded = micro_batches.encoded
    return logged | micro_batches.unfollowed()


def step_on(train_state: TrainState, micro_batches: MicroBatches) -> Logged:
    """Take one optimizer step on micro-batches of any origin. -> device scalars."""
    before = Buffers.of(train_state.model, train_state.loss_weighting)
    measure_if_due(train_state, micro_batches.names)
    return update(train_state, differentiate(train_state, micro_batches), before)


@frozen(eq=False)
class Differentiated:
    """The losses of a step whose gradients are in `.grad` of the parameters.

    names: K labels. values: (K,) losses.
    task_weight: (K,), or None if no weighting was used.
    measured: the step measured its task weights from gradients or losses.
    """

    names: Names
    values: Tensor
    task_weight: Tensor | None
    measured: bool = False


def measure_if_due(train_state: TrainState, names: Names) -> None:
    """Make the next forwards compute the Gramian at the features if this step needs it."""
    reads_features = train_state.experiment.weighting.at == "features"
    train_state.model.measuring = train_state.must_measure(names) and reads_features


def differentiate(train_state: TrainState, micro_batches: MicroBatches) -> Differentiated:
    """Compute the gradients of a step, as the weighting combines them."""
    names = micro_batches.names
    at = train_state.experiment.weighting.at
    must_measure = train_state.must_measure(names)
    backward = _backward_for(at, must_measure)
    # Even if this weighting does not need it: torch shares the compiled code of equal networks, so
    # the next run of this process, with a weighting that does, would get wrong gradients.
    compiled = bool(train_state.experiment.train.compile)
    with graph_context(at == "parameters" or compiled):
        values, task_weight = backward(train_state, micro_batches)
    _drop_idle_gradients(train_state.model, names)
    return Differentiated(names, values, task_weight, must_measure)


def update(
    train_state: TrainState,
    done: Differentiated,
    before: Buffers,
    own: _FabricOptimizer | None = None,
) -> Logged:
    """Clip the gradients, step the optimizers, update the averages, and count the step.

    before: the buffers before the forwards. own: an optimizer that replaces that of the run.
    """
    norm = _clip_gradients(train_state, own or train_state.optimizer)
    ok = torch.isfinite(norm)
    # A bad batch must not stay in the statistics of BatchNorm or of a weighting.
    before.restore_unless(ok)
    _step_optimizers(ok, train_state, own)
    _update_averages(ok, train_state)
    names, task_weight = done.names, done.task_weight
    if done.measured and task_weight is not None and train_state.experiment.weighting.every > 1:
        train_state.cache_task_weights(names, task_weight, ok)
    train_state.step += 1

    columns = {"loss": done.values}
    if task_weight is not None:
        weight, _ = train_state.weights_and_primary(names)
        columns |= {"weight": weight, "task_weight": task_weight}
    logged: Logged = {}
    for kind, column in columns.items():
        logged |= {f"{kind}/{name}": value for name, value in zip(names, column)}
    return logged | {"grad_norm": norm, "skipped": ~ok}


def _backward_for(at: str, must_measure: bool) -> Backward:
    """The backward for what the weighting reads, `LossWeighting.at`."""
    if at == "losses":
        return backward_weighted_sum
    if at == "parameters" and must_measure:
        return backward_per_task
    return backward_cached_weights


def graph_context(once_per_loss: bool) -> AbstractContextManager[object]:
    """A context in which the graph of a compiled encoder can be differentiated once per loss."""
    if not once_per_loss:
        return nullcontext()
    import torch._functorch.config

    # A compiled encoder frees its saved tensors in the first backward unless this switch is off,
    # both when it is compiled and whenever it runs. torch has one switch for the whole process,
    # so it is restored after the step.
    context: AbstractContextManager[object]
    context = torch._functorch.config.patch(donated_buffer=False)
    return context


def _drop_idle_gradients(model: HybridModel, names: Names) -> None:
    """Set the gradients of parameters that no loss of this step moves to None."""
    # Without a gradient the optimizer applies neither weight decay nor momentum. DDP, and a
    # weighting that reads gradients, leave zeros there, which would count as gradients.
    for p in model.idle(names):
        p.grad = None


def _clip_gradients(train_state: TrainState, optimizer: _FabricOptimizer) -> Tensor:
    """Clip the gradient norm of its parameters in place. -> () the norm before clipping."""
    most = train_state.experiment.train.clip
    precision = train_state.fabric.strategy.precision
    scaler = getattr(precision, "scaler", None)
    if scaler is not None and skips_on_device(optimizer.optimizer):
        # Fabric refuses to clip here, although torch's fused optimizers accept unscaled gradients.
        scaler.unscale_(optimizer.optimizer)
        parameters = precision.main_params(optimizer.optimizer)
        return nn.utils.clip_grad_norm_(parameters, most, error_if_nonfinite=False)
    norm = train_state.fabric.clip_gradients(
        train_state.module, optimizer, max_norm=most, error_if_nonfinite=False
    )
    assert norm is not None
    return norm


def _step_optimizers(ok: Tensor, train_state: TrainState, own: _FabricOptimizer | None) -> None:
    """Step the optimizers, or leave all parameters unchanged if the step is bad."""
    # A fused optimizer skips on the device if `found_inf` is set. Any other one is not called: the
    # host must read `ok`. Under "16-mixed" the GradScaler decides about the skip.
    bad = (~ok).float()
    scaled = train_state.experiment.train.precision == "16-mixed"
    optimizer = own or train_state.optimizer
    fused = own is None and skips_on_device(optimizer.optimizer)
    if fused and not scaled:
        _set_found_inf(optimizer.optimizer, bad)
    if fused or scaled or bool(ok):
        optimizer.step()
    if own is not None:
        own.zero_grad(set_to_none=True)
    train_state.optimizer.zero_grad(set_to_none=True)
    if train_state.loss_weighting_optimizer:
        _set_found_inf(train_state.loss_weighting_optimizer, bad)
        train_state.loss_weighting_optimizer.step()
        train_state.loss_weighting_optimizer.zero_grad(set_to_none=True)


def _set_found_inf(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    optimizer.found_inf = bad  # type: ignore[attr-defined]


def _update_averages(ok: Tensor, train_state: TrainState) -> None:
    """Update all momentum copies; those of a bad step stay unchanged."""
    for copy in train_state.model.followers:
        copy.update(train_state.progress, ok)
    if train_state.ema:
        train_state.ema.update(train_state.progress, ok)
