"""The three ways to compute the gradient of a step, one for each kind of weighting.

- `backward_weighted_sum`: the weighting reads losses. It returns the task weights first; then ONE
  backward of the weighted sum runs for each micro-batch.
- `backward_per_task`: the weighting reads the Gramian of the gradients at the shared parameters.
  One backward per loss; the gradients add up over micro-batches and ranks and are combined once.
- `backward_cached_weights`: the task weights are known before the encoder is differentiated. They
  are cached from an earlier step, or measured from the gradients at the features. ONE backward
  runs through the shared parameters.

All three leave the gradient of the step in `.grad` of each parameter, summed over ranks. They
return (K,) losses and (K,) task weights of the step, which are the same on all ranks.

Shapes: K losses of the step, P shared parameters (numbers, not tensors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from attrs import evolve
from torch import Tensor, nn

from ..contracts import StepLosses
from ..model.hybrid import HybridModel
from ..networks import broadcast_buffers, sum_over_ranks
from .buffers import Buffers
from .micro_batches import Forward, MicroBatches
from .parameter_gradients import (
    add_gradients,
    set_gradients,
    sum_losses_and_gradients,
    views_of,
)
from .state import Names, TrainState


def backward_weighted_sum(
    train_state: TrainState,
    micro_batches: MicroBatches,
) -> tuple[Tensor, Tensor]:
    """One backward for each micro-batch, of the sum of its weighted losses.

    -> (K,) losses and (K,) task weights of the step.
    """
    names = micro_batches.names
    weight, _ = train_state.weights_and_primary(names)
    mean = torch.zeros_like(weight)
    used = torch.zeros_like(weight)
    count = len(micro_batches)
    whole_step = _task_weights_of_whole_step(train_state, micro_batches)

    for losses, _ in _forwards(train_state, micro_batches, synced=True):
        local = torch.stack([losses[name] for name in names])
        values = _mean_over_ranks(train_state, local)
        if whole_step is None:
            seen = train_state.step_losses(names, values, None)
            task_weight = task_weights(train_state.loss_weighting, seen, count)
        else:
            task_weight = whole_step / count
        train_state.fabric.backward((task_weight * weight * local).sum())
        mean = values + mean
        used = task_weight + used
        del losses, local  # see `_forwards`
    return mean / count, used


def backward_per_task(
    train_state: TrainState,
    micro_batches: MicroBatches,
) -> tuple[Tensor, Tensor]:
    """One backward for each loss. -> (K,) losses and (K,) task weights of the step.

    Row k of a (K, P) matrix is the gradient of weighted loss k at the shared parameters. Rows add
    up over micro-batches and ranks, and are combined ONCE.

    The same backward reaches the loss's own head, which no other loss moves. There the task weight
    has no effect, as in LibMTL and TorchJD. So the head of a pretext with task weight 0 keeps
    learning, and is ready when its task weight rises.
    """
    model = train_state.model
    names = micro_batches.names
    scale = _scale(train_state, micro_batches)
    weight = train_state.weights_and_primary(names)[0] * scale
    shared = model.shared()
    own = _own_parameters(model, names)
    values = torch.zeros_like(weight)

    # A row is the only copy of its gradient: `views[k]` are its pieces in the parameters' shapes.
    width = sum(p.numel() for p in shared)
    rows = train_state.gradient_rows(len(names), width)
    views = [views_of(row, shared) for row in rows]
    for losses, _ in _forwards(train_state, micro_batches, synced=False):
        local = torch.stack([losses[name].detach() for name in names])
        values += local * scale
        for k, name in enumerate(names):
            # Autograd adds into `.grad` in place, so this backward adds into row k.
            set_gradients(shared, views[k])
            is_last = name == names[-1]
            (losses[name] * weight[k]).backward(retain_graph=not is_last)
        del losses  # see `_forwards`

    sum_losses_and_gradients(values, own)
    sum_over_ranks(rows)
    task_weight = _measure_task_weights(train_state, names, values, rows @ rows.T)
    # The combined gradient replaces the first row: no second (P,) vector is allocated.
    rows[0].mul_(task_weight[0]).addmv_(rows[1:].T, task_weight[1:])
    set_gradients(shared, views[0])
    broadcast_buffers(model)
    return values, task_weight


def backward_cached_weights(
    train_state: TrainState,
    micro_batches: MicroBatches,
) -> tuple[Tensor, Tensor]:
    """One backward through the shared parameters, with task weights that are known before it.

    -> (K,) losses and (K,) task weights of the step.

    As in `backward_per_task`, task weights act on the shared parameters alone. So heads are
    differentiated twice: once with task weight 1 for their own parameters, and once on the way
    to the shared parameters. The encoder is differentiated once.
    """
    model = train_state.model
    names = micro_batches.names
    scale = _scale(train_state, micro_batches)
    weight, _ = train_state.weights_and_primary(names)
    shared = model.shared()
    own = _own_parameters(model, names)
    values = torch.zeros_like(weight)
    used = torch.zeros_like(weight)
    own_gradients: list[Tensor | None] = [None] * len(own)

    for losses, gram in _forwards(train_state, micro_batches, synced=False):
        local = torch.stack([losses[name] for name in names])
        values += local.detach() * scale
        if gram is None:
            task_weight, _ = train_state.cached_task_weights[names]
        else:
            # The model measures the Gramian of plain losses; the weighting reads weighted ones.
            weighted_gram = gram * torch.outer(weight, weight)
            seen = _mean_over_ranks(train_state, local)
            task_weight = _measure_task_weights(train_state, names, seen, weighted_gram)
        weighted = local * weight * scale
        if own:
            new = torch.autograd.grad(weighted.sum(), own, retain_graph=True, allow_unused=True)
            own_gradients = [add_gradients(old, more) for old, more in zip(own_gradients, new)]
        (task_weight * weighted).sum().backward()
        used += task_weight / len(micro_batches)
        del losses, local, weighted  # see `_forwards`

    # The last backward left task-weighted gradients in the own parameters: replace them.
    set_gradients(own, own_gradients)
    sum_losses_and_gradients(values, [*own, *shared])
    broadcast_buffers(model)
    return values, used


def task_weights(loss_weighting: nn.Module, losses: StepLosses, micro_batches: int = 1) -> Tensor:
    """(K,) derivative of the weighting's objective by each loss.

    micro_batches: number of micro-batches of the step; the losses are those of one of them.
    Learned weights get their gradient here. The losses are equal on all ranks, so these gradients
    are too, and DDP does not have to reduce them.
    """
    losses = evolve(losses, values=losses.values.detach().requires_grad_())
    (loss_weighting(losses) / micro_batches).backward()
    assert losses.values.grad is not None
    return losses.values.grad


# ---------------------------------------------------------------------------------- forwards


def _forwards(
    train_state: TrainState,
    micro_batches: MicroBatches,
    synced: bool,
) -> Iterator[Forward]:
    """Yield the losses by label and the Gramian (or None) of each micro-batch.

    synced: DDP reduces gradients over ranks in the last backward. Otherwise it never does, and the
    caller must sum them.

    Each micro-batch is prepared here. Its views stay in memory as long as its losses, so the caller
    must delete the losses before it requests the next ones.
    """
    # DDP reduces in a backward unless `no_sync` is active in its forward and in that backward.
    # The context stays open across the `yield`, where the caller runs the backward.
    no_sync: Callable[[], AbstractContextManager[object]]
    no_sync = getattr(train_state.module, "no_sync", nullcontext)
    last = len(micro_batches) - 1
    for i in range(len(micro_batches)):
        reduces = synced and i == last
        with nullcontext() if reduces else no_sync():
            # Yield directly: a variable here would keep the losses alive.
            yield micro_batches.forward(i)


def _task_weights_of_whole_step(
    train_state: TrainState,
    micro_batches: MicroBatches,
) -> Tensor | None:
    """(K,) task weights from the losses of all micro-batches; None if it can read them one by one.

    A weighting that is not `additive` must see the losses of the whole step, once, before any of
    it is differentiated. This costs one more forward for each micro-batch.
    """
    if len(micro_batches) == 1 or train_state.experiment.weighting.additive:
        return None
    names = micro_batches.names
    values = _losses_of_whole_step(train_state, micro_batches)
    return task_weights(train_state.loss_weighting, train_state.step_losses(names, values, None))


@torch.no_grad()
def _losses_of_whole_step(
    train_state: TrainState,
    micro_batches: MicroBatches,
) -> Tensor:
    """(K,) losses of all micro-batches and ranks, without gradient; buffers stay as they were."""
    # DDP broadcasts rank 0's buffers before the first forward of a step, which is one of these.
    # It will not do so again before the forwards that count. So broadcast first: the buffers that
    # are restored below must be rank 0's and not this rank's own.
    broadcast_buffers(train_state.model)
    before = Buffers.of(train_state.model)
    names = micro_batches.names
    values = torch.zeros_like(train_state.weights_and_primary(names)[0])
    for losses, _ in _forwards(train_state, micro_batches, synced=False):
        values += torch.stack([losses[name] for name in names])
        before.restore()
    return sum_over_ranks(values) / (train_state.fabric.world_size * len(micro_batches))


def _mean_over_ranks(train_state: TrainState, local: Tensor) -> Tensor:
    """(K,) losses of this rank -> their mean over ranks, detached."""
    return sum_over_ranks(local.detach().clone()) / train_state.fabric.world_size


def _scale(train_state: TrainState, micro_batches: MicroBatches) -> float:
    """The share of one micro-batch of one rank in the mean over the whole step."""
    return 1 / (train_state.fabric.world_size * len(micro_batches))


def _measure_task_weights(
    train_state: TrainState,
    names: Names,
    values: Tensor,
    gram: Tensor,
) -> Tensor:
    """(K,) task weights from losses (K,) and a Gramian (K, K); NaN if the Gramian is not finite."""
    # Solvers raise on a Gramian that is not finite, so they get the identity instead. NaN makes
    # the step skip. A task weight of 0 would hide a bad row, and the step would go through.
    finite = gram.isfinite().all()
    identity = torch.eye(len(gram), device=gram.device)
    safe_gram = torch.where(finite, gram, identity)
    losses = train_state.step_losses(names, values, safe_gram)
    task_weight = task_weights(train_state.loss_weighting, losses)
    return torch.where(finite, task_weight, torch.nan)


# ---------------------------------------------------------------------------------- gradients


def _own_parameters(model: HybridModel, names: Names) -> list[nn.Parameter]:
    """Parameters that only one of these losses moves."""
    return [p for name in names for p in model.own(name)]
