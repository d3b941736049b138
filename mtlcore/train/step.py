"""One optimiser step: serves every task, pretext, view policy and weighting; knows none of them by name.

Two ways to the gradient, by what the weighting looks at:
- losses (or their Gramian at the features): factors first, then ONE backward a micro-batch;
- Gramian at the parameters: one gradient a loss, added up over micro-batches and ranks, combined once.
Nothing is read back to the host; a step whose gradient norm is not finite changes nothing and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from attrs import define, evolve, field
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..contracts import StepLosses
from ..experiment import Experiment
from ..model import HybridModel
from ..networks import EMA, total
from ..rng import Streams
from ..views import Inputs

Logged = dict[str, Tensor]


@define(eq=False)
class Engine:
    """What a step works on. `module` is the model, or what the strategy (DDP) made of it."""

    experiment: Experiment
    model: HybridModel
    weigher: nn.Module
    optimizer: Any  # of the model, as Fabric wraps it
    weigher_optimizer: (
        torch.optim.Optimizer | None
    )  # of learned weights: their gradients are not scaled by a GradScaler
    averaged: EMA | None  # momentum copy of the network that is kept
    module: nn.Module
    fabric: Fabric
    steps: int
    step: int = 0
    steps_per_epoch: int = 1
    _vectors: dict[tuple[str, ...], tuple[Tensor, Tensor]] = field(factory=dict)

    @property
    def progress(self) -> float:
        return self.step / self.steps

    def micro(self, part: int) -> int:
        """The GLOBAL number of this rank's `part`-th micro-batch: what rows and draws are keyed by, never the rank."""
        return part * self.fabric.world_size + self.fabric.global_rank

    def streams(self, part: int) -> Streams:
        """The draws of this rank's `part`-th micro-batch."""
        return Streams((self.experiment.seed, self.step, self.micro(part)), self.fabric.device)

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
        rng = Streams((self.experiment.seed, self.step), self.fabric.device)("weighting")
        return StepLosses(names, values, gram, self.vectors(names)[1], self.progress, epoch, rng)


def train_step(engine: Engine, parts: Sequence[Inputs]) -> Logged:
    """One step on the micro-batches `parts` of this rank. -> device scalars: losses, factors, gradient norm, skipped."""
    names = tuple(parts[0].readings)
    model, buffers = engine.model, [*engine.model.buffers(), *engine.weigher.buffers()]
    before = [b.clone() for b in buffers]
    differentiate = by_rows if model.at == "parameters" else by_loss
    logged = differentiate(engine, parts, names)
    _rest_idle_heads(model, names)
    norm = engine.fabric.clip_gradients(
        engine.module, engine.optimizer, max_norm=engine.experiment.train.clip, error_if_nonfinite=False
    )
    assert norm is not None
    ok = torch.isfinite(norm)
    _keep_if(ok, buffers, before)  # a bad batch must not stay in BatchNorm's statistics, nor in a weighting's
    _step_if(ok, engine)
    for follower in (*model.followers(), *([engine.averaged] if engine.averaged else [])):
        follower.update(engine.progress, ok)
    engine.step += 1
    return logged | {"grad_norm": norm, "skipped": ~ok}


def by_loss(engine: Engine, parts: Sequence[Inputs], names: tuple[str, ...]) -> Logged:
    """Factors from the losses, or from their Gramian at the features; then one backward, for each micro-batch."""
    weight, mean, used = engine.vectors(names)[0], torch.zeros(()), torch.zeros(())
    for losses, gram in _forwards(engine, parts, synced=True):
        local = torch.stack([losses[name] for name in names])
        values = total(local.detach().clone()) / engine.fabric.world_size
        gram = gram if gram is None else _solvable(gram * torch.outer(weight, weight))
        factor = factors(engine.weigher, engine.losses(names, values, gram), len(parts))
        engine.fabric.backward((factor * weight * local).sum())
        mean, used = values + mean, factor + used
    return _log(names, mean / len(parts), used)


def by_rows(engine: Engine, parts: Sequence[Inputs], names: tuple[str, ...]) -> Logged:
    """Each loss's gradient at the shared parameters is a row; rows add up over micro-batches and ranks, and are combined ONCE.

    A row goes on with the loss's own head, which no other loss moves: the strategy has no say there (as in LibMTL and TorchJD),
    so that a gated pretext's head keeps learning and is ready when the gate opens.
    """
    model, weight, world = engine.model, engine.vectors(names)[0], engine.fabric.world_size
    shared, own = model.shared(), [model.own(name) for name in names]
    values, rows = torch.zeros(len(names), device=weight.device), [weight.new_zeros(()) for _ in names]
    for losses, _ in _forwards(engine, parts, synced=False):
        values += torch.stack([losses[name].detach() for name in names])
        for k, name in enumerate(names):
            rows[k] = rows[k] + _flat_gradient(losses[name], [*shared, *own[k]], retain=name != names[-1])
    for x in (values, *rows):
        total(x).div_(world * len(parts))
    rows = [row * w for row, w in zip(rows, weight)]
    size = sum(p.numel() for p in shared)
    jacobian = torch.stack([row[:size] for row in rows])  # (K, P)
    factor = factors(engine.weigher, engine.losses(names, values, _solvable(jacobian @ jacobian.T)))
    _give(shared, factor @ jacobian)
    for row, parameters in zip(rows, own):
        _give(parameters, row[size:])
    if world > 1:  # DDP does this where it syncs, and here it never does
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    return _log(names, values, factor)


def factors(weigher: nn.Module, losses: StepLosses, parts: int = 1) -> Tensor:
    """(K,) d objective / d losses, for one of `parts` micro-batches.

    Learned weights get their gradient here. The values are equal on all ranks, so their gradients are: DDP need not know them.
    """
    losses = evolve(losses, values=losses.values.detach().requires_grad_())
    (weigher(losses) / parts).backward()
    assert losses.values.grad is not None
    return losses.values.grad


def _forwards(
    engine: Engine, parts: Sequence[Inputs], synced: bool
) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
    """One forward for each micro-batch. synced: the last one's backward reduces over ranks; else nothing does, the caller must."""
    no_sync: Callable[[], Any] = getattr(engine.module, "no_sync", nullcontext)
    for i, inputs in enumerate(parts):
        torch.manual_seed(engine.streams(i).seed("dropout"))  # nn.Dropout and stochastic depth take no generator
        with no_sync() if i < len(parts) - 1 or not synced else nullcontext():
            with engine.fabric.autocast():
                result = engine.module(inputs)
            yield result


def _flat_gradient(loss: Tensor, parameters: Sequence[Tensor], retain: bool) -> Tensor:
    grads = torch.autograd.grad(loss, parameters, retain_graph=retain, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def _solvable(gram: Tensor) -> Tensor:
    """Solvers raise on NaN; such a step is skipped anyway, for its norm is not finite."""
    return torch.where(gram.isfinite().all(), gram, torch.eye(len(gram), device=gram.device))


def _give(parameters: Sequence[Tensor], flat: Tensor) -> None:
    for p, g in zip(parameters, flat.split([p.numel() for p in parameters])):
        p.grad = g.view_as(p)


def _log(names: Sequence[str], values: Tensor, factor: Tensor) -> Logged:
    return {f"loss/{n}": v for n, v in zip(names, values)} | {f"factor/{n}": f for n, f in zip(names, factor)}


def _rest_idle_heads(model: HybridModel, names: Sequence[str]) -> None:
    """A head whose label is absent from the whole step gets no gradient: no decay, no momentum."""
    for label in model.heads.keys() - model.used(names):
        for p in model.heads[label].parameters():
            p.grad = None


def _keep_if(ok: Tensor, buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    for buffer, old in zip(buffers, before):
        buffer.copy_(torch.where(ok, buffer, old))


def _step_if(ok: Tensor, engine: Engine) -> None:
    """Fused optimisers skip on the device where `found_inf` is set; under a GradScaler the scaler owns the skip."""
    bad = (~ok).float()
    inner = engine.optimizer.optimizer
    if engine.experiment.train.precision != "16-mixed":
        inner.found_inf = bad
    engine.optimizer.step()
    engine.optimizer.zero_grad(set_to_none=True)
    if engine.weigher_optimizer:
        engine.weigher_optimizer.found_inf = bad  # type: ignore[attr-defined]
        engine.weigher_optimizer.step()
        engine.weigher_optimizer.zero_grad(set_to_none=True)
