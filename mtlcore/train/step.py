"""One optimizer step: serves every task, pretext, view policy and weighting; knows none of them by name.

Three ways to the gradient, by what the weighting looks at:
- losses: task weights first, then ONE backward of the weighted sum a micro-batch;
- Gramian at the parameters: one gradient a loss, added up over micro-batches and ranks, combined once;
- Gramian at the features, or task weights kept from a step before: ONE backward through what is shared, heads by themselves.
Nothing is read back to the host; a step whose gradient norm is not finite changes nothing and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from attrs import define, evolve, field
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..config.experiment import Experiment
from ..contracts import PreparedBatch, StepLosses
from ..model.hybrid import HybridModel
from ..networks import EMA, total, world_size
from ..rng import DROPOUT, WEIGHTING, KeyedRng
from .optim import lr_at

Logged = dict[str, Tensor]


@define(eq=False)
class TrainState:
    """What a step works on. `module` is the model, or what the strategy (DDP) made of it."""

    experiment: Experiment
    model: HybridModel
    loss_weighting: nn.Module
    optimizer: Any  # of the model, as Fabric wraps it
    loss_weighting_optimizer: (
        torch.optim.Optimizer | None
    )  # of learned weights: their gradients are not scaled by a GradScaler
    ema: EMA | None  # momentum copy of the network that is kept
    module: nn.Module
    fabric: Fabric
    steps: int
    step: int = 0
    steps_per_epoch: int = 1
    # The tasks of a step -> their (K,) task weights, and the step that measured them. They say nothing of another set of tasks.
    cached_task_weights: dict[tuple[str, ...], tuple[Tensor, int]] = field(factory=dict)
    _vectors: dict[tuple[str, ...], tuple[Tensor, Tensor]] = field(factory=dict)
    _rows: Tensor | None = None

    @property
    def progress(self) -> float:
        return self.step / self.steps

    def lr_at(self, step: int) -> float:
        """The learning rate of this step."""
        return lr_at(self.experiment.optimizer.lr, self.experiment.schedule, step, self.steps)

    def micro(self, micro_batch: int) -> int:
        """The GLOBAL number of this rank's micro-batch number `micro_batch`: what rows and draws are keyed by, never the rank."""
        return micro_batch * self.fabric.world_size + self.fabric.global_rank

    def keyed_rng(self, micro_batch: int) -> KeyedRng:
        """The draws of this rank's micro-batch number `micro_batch`."""
        return KeyedRng(
            (self.experiment.seed, self.step, self.micro(micro_batch)), self.fabric.device
        )

    def vectors(self, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """(K,) weights and (K,) "is it supervised?", made once for each set of names: no copy to the device in the step."""
        if names not in self._vectors:
            weight = torch.tensor([self.experiment.entries[name].weight for name in names])
            primary = torch.tensor([name in self.experiment.tasks for name in names])
            self._vectors[names] = weight.to(self.fabric.device), primary.to(self.fabric.device)
        return self._vectors[names]

    def losses(self, names: tuple[str, ...], values: Tensor, gram: Tensor | None) -> StepLosses:
        """What the weighting sees: the same on all ranks and for all micro-batches, its draws included."""
        epoch = self.step // self.steps_per_epoch
        rng = KeyedRng((self.experiment.seed, self.step), self.fabric.device)(WEIGHTING)
        return StepLosses(names, values, gram, self.vectors(names)[1], self.progress, epoch, rng)

    def rows(self, number: int, width: int) -> Tensor:
        """(number, width) zeros: the memory of the step before, since new pages would cost a CPU 7 % of a step at K = 5."""
        if self._rows is None or self._rows.shape[1] != width:
            self._rows = torch.empty(len(self.experiment.entries), width, device=self.fabric.device)
        return self._rows[:number].zero_()

    def due(self, names: tuple[str, ...]) -> bool:
        """Must the task weights be measured? Where this set of tasks has none yet, or where they are `every` steps old."""
        return (
            names not in self.cached_task_weights
            or self.step - self.cached_task_weights[names][1] >= self.experiment.weighting.every
        )

    def cache_task_weights(self, names: tuple[str, ...], task_weight: Tensor, ok: Tensor) -> None:
        """Remember measured task weights; those of a skipped step are as bad as its gradients: the ones before stay (at first, 1)."""
        old = (
            self.cached_task_weights[names][0]
            if names in self.cached_task_weights
            else torch.ones_like(task_weight)
        )
        self.cached_task_weights[names] = torch.where(ok, task_weight, old), self.step

    def cached_task_weights_state(self) -> list[dict[str, Any]]:
        """Kept task weights, for a checkpoint: of each set of tasks its names, (K,) task weights, and the step that measured them."""
        return [
            {"names": [*k], "task_weight": task_weight.cpu(), "step": step}
            for k, (task_weight, step) in self.cached_task_weights.items()
        ]

    def load_cached_task_weights(self, state: Sequence[dict[str, Any]]) -> None:
        """What `cached_task_weights_state` gave."""
        device = self.fabric.device
        self.cached_task_weights = {
            tuple(kept["names"]): (kept["task_weight"].to(device), int(kept["step"]))
            for kept in state
        }


def train_step(train_state: TrainState, micro_batches: Sequence[PreparedBatch]) -> Logged:
    """One step on the micro-batches `micro_batches` of this rank. -> device scalars: losses, weights, task weights, gradient norm, skipped."""
    names = tuple(micro_batches[0].head_inputs)
    model, buffers = (
        train_state.model,
        [*train_state.model.buffers(), *train_state.loss_weighting.buffers()],
    )
    before = [b.clone() for b in buffers]
    at, due = train_state.experiment.weighting.at, train_state.due(names)
    model.measuring = due and at == "features"
    differentiate = (
        backward_weighted_sum
        if at == "losses"
        else backward_per_task
        if due and at == "parameters"
        else backward_cached_weights
    )
    with _graphs_kept() if at == "parameters" else nullcontext():
        values, task_weight = differentiate(train_state, micro_batches, names)
    _rest_idle_heads(model, names)
    norm = train_state.fabric.clip_gradients(
        train_state.module,
        train_state.optimizer,
        max_norm=train_state.experiment.train.clip,
        error_if_nonfinite=False,
    )
    assert norm is not None
    ok = torch.isfinite(norm)
    _keep_if(
        ok, buffers, before
    )  # a bad batch must not stay in BatchNorm's statistics, nor in a weighting's
    _step_if(ok, train_state)
    for follower in (*model.followers(), *([train_state.ema] if train_state.ema else [])):
        follower.update(train_state.progress, ok)
    if due and train_state.experiment.weighting.every > 1:
        train_state.cache_task_weights(names, task_weight, ok)
    train_state.step += 1
    columns = {"loss": values, "weight": train_state.vectors(names)[0], "task_weight": task_weight}
    logged = {
        f"{what}/{name}": x for what, column in columns.items() for name, x in zip(names, column)
    }
    return logged | {"grad_norm": norm, "skipped": ~ok}


def backward_weighted_sum(
    train_state: TrainState, micro_batches: Sequence[PreparedBatch], names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Task weights from the losses; then one backward, for each micro-batch. -> (K,) losses and (K,) task weights of the step.

    A weighting that is not `additive` must see the losses of the whole step, once, before any of it is differentiated.
    """
    weight = train_state.vectors(names)[0]
    mean, used = torch.zeros_like(weight), torch.zeros_like(weight)
    alone = len(micro_batches) == 1 or train_state.experiment.weighting.additive
    whole = (
        None
        if alone
        else task_weights(
            train_state.loss_weighting,
            train_state.losses(names, _looked_ahead(train_state, micro_batches, names), None),
        )
    )
    for losses, _ in _forwards(train_state, micro_batches, synced=True):
        local = torch.stack([losses[name] for name in names])
        values = total(local.detach().clone()) / train_state.fabric.world_size
        own = train_state.losses(names, values, None)
        task_weight = (
            task_weights(train_state.loss_weighting, own, len(micro_batches))
            if whole is None
            else whole / len(micro_batches)
        )
        train_state.fabric.backward((task_weight * weight * local).sum())
        mean, used = values + mean, task_weight + used
    return mean / len(micro_batches), used


def backward_per_task(
    train_state: TrainState, micro_batches: Sequence[PreparedBatch], names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Each weighted loss's gradient at the shared parameters is a row; rows add up over micro-batches and ranks, and are
    combined ONCE. -> (K,) losses and (K,) task weights of the step.

    A row is the only copy of its gradient: autograd adds into views of it, and the first row becomes the result. The same backward
    reaches the loss's own head, which no other loss moves: the strategy has no say there (as in LibMTL and TorchJD), so that a
    gated pretext's head keeps learning and is ready when the gate opens.
    """
    model, scale = train_state.model, 1 / (train_state.fabric.world_size * len(micro_batches))
    weight = train_state.vectors(names)[0] * scale
    shared, own, values = model.shared(), _own(model, names), torch.zeros_like(weight)
    rows = train_state.rows(len(names), sum(p.numel() for p in shared))
    views = [_views(row, shared) for row in rows]
    for losses, _ in _forwards(train_state, micro_batches, synced=False):
        values += torch.stack([losses[name].detach() for name in names]) * scale
        for k, name in enumerate(names):
            _point(shared, views[k])
            (losses[name] * weight[k]).backward(retain_graph=name != names[-1])
    _add_up(values, own)
    total(rows)
    task_weight = _measured(train_state, names, values, rows @ rows.T)
    rows[0].mul_(task_weight[0]).addmv_(rows[1:].T, task_weight[1:])
    _point(shared, views[0])
    _broadcast_buffers(model)
    return values, task_weight


def backward_cached_weights(
    train_state: TrainState, micro_batches: Sequence[PreparedBatch], names: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Task weights that are known before the encoder is differentiated: kept, or measured at the features. -> (K,) losses and task weights.

    They rule the shared parameters alone, as in `backward_per_task`. So heads are differentiated twice: for themselves with task weight 1, and
    on the way to what is shared; the encoder once.
    """
    model, scale = train_state.model, 1 / (train_state.fabric.world_size * len(micro_batches))
    weight = train_state.vectors(names)[0]
    shared, own, values = model.shared(), _own(model, names), torch.zeros_like(weight)
    mine: list[Tensor | None] = [None] * len(own)
    used = torch.zeros_like(weight)
    for losses, gram in _forwards(train_state, micro_batches, synced=False):
        local = torch.stack([losses[name] for name in names])
        values += local.detach() * scale
        if gram is None:
            task_weight = train_state.cached_task_weights[names][0]
        else:
            seen = total(local.detach().clone()) / train_state.fabric.world_size
            task_weight = _measured(train_state, names, seen, gram * torch.outer(weight, weight))
        weighted = local * weight * scale
        if own:
            once = torch.autograd.grad(weighted.sum(), own, retain_graph=True, allow_unused=True)
            mine = [_sum(before, now) for before, now in zip(mine, once)]
        (task_weight * weighted).sum().backward()
        used += task_weight / len(micro_batches)
    _point(own, mine)
    _add_up(values, [*own, *shared])
    _broadcast_buffers(model)
    return values, used


def task_weights(loss_weighting: nn.Module, losses: StepLosses, micro_batches: int = 1) -> Tensor:
    """(K,) d objective / d losses, for one of `micro_batches` micro-batches.

    Learned weights get their gradient here. The values are equal on all ranks, so their gradients are: DDP need not know them.
    """
    losses = evolve(losses, values=losses.values.detach().requires_grad_())
    (loss_weighting(losses) / micro_batches).backward()
    assert losses.values.grad is not None
    return losses.values.grad


def _forwards(
    train_state: TrainState, micro_batches: Sequence[PreparedBatch], synced: bool
) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
    """One forward for each micro-batch. synced: the last one's backward reduces over ranks; else nothing does, the caller must."""
    no_sync: Callable[[], Any] = getattr(train_state.module, "no_sync", nullcontext)
    for i, prepared in enumerate(micro_batches):
        torch.manual_seed(
            train_state.keyed_rng(i).seed(DROPOUT)
        )  # nn.Dropout and stochastic depth take no generator
        with no_sync() if i < len(micro_batches) - 1 or not synced else nullcontext():
            with train_state.fabric.autocast():
                result = train_state.module(prepared)
            yield result


@torch.no_grad()
def _looked_ahead(
    train_state: TrainState, micro_batches: Sequence[PreparedBatch], names: tuple[str, ...]
) -> Tensor:
    """(K,) losses of the whole step, without gradient; what the forwards leave in buffers is put back.

    DDP gives all ranks the buffers of rank 0 before the first forward of a step, which is one of these: what is put back must be
    those, not this rank's own, for the forwards that count will not ask again.
    """
    _broadcast_buffers(train_state.model)
    buffers, values = (
        [*train_state.model.buffers()],
        torch.zeros_like(train_state.vectors(names)[0]),
    )
    before = [b.clone() for b in buffers]
    for losses, _ in _forwards(train_state, micro_batches, synced=False):
        values += torch.stack([losses[name] for name in names])
        for buffer, old in zip(buffers, before):
            buffer.copy_(old)
    return total(values) / (train_state.fabric.world_size * len(micro_batches))


def _measured(
    train_state: TrainState, names: tuple[str, ...], values: Tensor, gram: Tensor
) -> Tensor:
    """(K,) task weights. Solvers raise on a Gramian that is not finite: they get another one, and the task weights become NaN, so that the
    step is skipped even where a task weight of 0 would have hidden the bad row.
    """
    finite = gram.isfinite().all()
    gram = torch.where(finite, gram, torch.eye(len(gram), device=gram.device))
    return torch.where(
        finite,
        task_weights(train_state.loss_weighting, train_state.losses(names, values, gram)),
        torch.nan,
    )


def _own(model: HybridModel, names: Sequence[str]) -> list[nn.Parameter]:
    return [p for name in names for p in model.own(name)]


def _views(row: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    return [
        piece.view_as(p) for piece, p in zip(row.split([p.numel() for p in parameters]), parameters)
    ]


def _point(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """What autograd adds into, and what the optimizer reads; None: it leaves the parameter alone."""
    for p, g in zip(parameters, gradients):
        p.grad = g


def _sum(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    """None: no loss has reached it."""
    return one + two if one is not None and two is not None else two if one is None else one


def _add_up(values: Tensor, parameters: Sequence[Tensor]) -> None:
    """Sums losses and gradients over ranks, in place, in one message.

    A parameter that no loss reached counts as 0 in the message and stays without a gradient, so that it is not decayed. Which those
    are, all ranks agree on: heads and names of a step are the same everywhere.
    """
    if world_size() > 1:
        tensors = [values, *(torch.zeros_like(p) if p.grad is None else p.grad for p in parameters)]
        _spread(tensors, total(_joined(tensors)))


def _broadcast_buffers(model: nn.Module) -> None:
    """Rank 0's, in one message a dtype. DDP does this where it syncs; where gradients are added up here, it never does."""
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(b.dtype for b in model.buffers()):
        same = [b for b in model.buffers() if b.dtype == dtype]
        message = _joined(same)
        dist.broadcast(message, 0)
        _spread(same, message)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _spread(tensors: Sequence[Tensor], joined: Tensor) -> None:
    """Back from one message, in place."""
    for t, piece in zip(tensors, joined.split([t.numel() for t in tensors])):
        t.copy_(piece.view_as(t))


def _graphs_kept() -> AbstractContextManager[Any]:
    """A compiled encoder's backward gives its memory away, unless it is told, before it is compiled and whenever it runs, that it
    may run once for each loss. torch has one switch for the process: it is put back after the step.
    """
    import torch._functorch.config

    kept: AbstractContextManager[Any] = torch._functorch.config.patch(donated_buffer=False)
    return kept


def _rest_idle_heads(model: HybridModel, names: Sequence[str]) -> None:
    """A head whose label is absent from the whole step gets no gradient: no decay, no momentum."""
    for label in model.heads.keys() - model.used(names):
        for p in model.heads[label].parameters():
            p.grad = None


def _keep_if(ok: Tensor, buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for buffer, old in zip(buffers, before):
        buffer.copy_(torch.where(ok, buffer, old))


def _step_if(ok: Tensor, train_state: TrainState) -> None:
    """Fused optimizers skip on the device where `found_inf` is set; under a GradScaler the scaler owns the skip."""
    bad = (~ok).float()
    inner = train_state.optimizer.optimizer
    if train_state.experiment.train.precision != "16-mixed":
        inner.found_inf = bad
    train_state.optimizer.step()
    train_state.optimizer.zero_grad(set_to_none=True)
    if train_state.loss_weighting_optimizer:
        train_state.loss_weighting_optimizer.found_inf = bad  # type: ignore[attr-defined]
        train_state.loss_weighting_optimizer.step()
        train_state.loss_weighting_optimizer.zero_grad(set_to_none=True)
