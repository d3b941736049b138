"""The work of one of two gloo ranks in `train/test_weighting_ranks.py`.

Each strategy trains on its half of the same batches. Another case checks what DDP does not sync
where a step bypasses it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from attrs import evolve
from lightning_fabric import Fabric
from toys import Toy, batch, counted, prepared_step
from weightings import STRATEGIES, Fixed, small, with_spare

from mtlcore.contracts import PreparedBatch
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.optimizers import SGD
from mtlcore.rng import KeyedRng
from mtlcore.training.build import build_train_state
from mtlcore.training.devices import leave_together
from mtlcore.training.step import train_step

STEPS = 20
State = dict[str, torch.Tensor]


# Task weights are measured in one step and cached in two.
SPARE = "a parameter that no loss reaches"
CASES = {name: small(weighting) for name, weighting in STRATEGIES.items()} | {
    SPARE: with_spare(small(Fixed({"gender": 0.5}, every=3)))
}


def trained(fabric: Fabric, name: str) -> State:
    """The model and the weighting after 20 steps; every seventh step lacks a task."""
    exp = CASES[name]
    exp = evolve(exp, optimizer=SGD(lr=0.02, weight_decay=exp.optimizer.weight_decay, momentum=0.5))
    train_state = build_train_state(exp, fabric, STEPS, 5)
    rank, world = fabric.global_rank, fabric.world_size
    for step, full in enumerate(_whole_batches(exp)):
        part = full if world == 1 else full.cut(slice(4 * rank, 4 * rank + 4), world)
        logged = prepared_step(train_state, [part])
        assert not bool(logged["skipped"]), (name, step)
    learned = {f"weighting.{k}": v for k, v in train_state.loss_weighting.state_dict().items()}
    return {k: v.clone() for k, v in (train_state.model.state_dict() | learned).items()}


_prepared: dict[int, list[PreparedBatch]] = {}


def _whole_batches(exp) -> list[PreparedBatch]:
    """The same images and targets for every strategy."""
    if not _prepared:
        absent = [("gender",) if step % 7 == 3 else () for step in range(STEPS)]
        made = [
            batch(n=8, unlabeled=0, seed=s, absent=a, tasks=("fer", "gender"))
            for s, a in enumerate(absent)
        ]
        _prepared[0] = [
            prepare(training_plan(exp), counted([b])[0], KeyedRng((0, step, 0)))
            for step, b in enumerate(made)
        ]
    return _prepared[0]


def statistics(fabric: Fabric) -> tuple[list[float], int]:
    """BatchNorm, two micro-batches a step, other images on each rank.

    The strategy needs the losses of both micro-batches before either is differentiated.
    -> the largest difference between the ranks' buffers when the first forward with gradient
    begins, for each step; and the number of broadcasts in one step.
    """
    exp = small(STRATEGIES["torchjd:DWA"], encoder=Toy())
    train_state = build_train_state(exp, fabric, 4, 2)
    begun, messages, send = list[torch.Tensor](), list[torch.dtype](), dist.broadcast

    def note(model: torch.nn.Module, _: object) -> None:
        if torch.is_grad_enabled():
            begun.append(torch.cat([b.flatten().double() for b in model.buffers()]))

    def counting(tensor: torch.Tensor, *args, **kwargs):
        messages.append(tensor.dtype)
        return send(tensor, *args, **kwargs)

    train_state.model.register_forward_pre_hook(note)
    for step in range(4):
        mine = []
        for i in range(2):
            seed = 10 * step + train_state.global_micro_batch(i)
            mine.append(batch(n=4, unlabeled=0, seed=seed, tasks=("fer", "gender")))
        dist.broadcast = counting if step == 3 else send
        train_step(train_state, counted(mine))
    dist.broadcast = send
    both = [fabric.all_gather(first) for first in begun[::2]]
    return [float((one - two).abs().max()) for one, two in both], len(messages)


def run(fabric: Fabric, out: Path) -> None:
    """Write the state of this rank and the largest difference of both, for each case."""
    torch.set_num_threads(1)
    found: dict[str, object] = {"statistics": statistics(fabric)}
    for name in CASES:
        state = trained(fabric, name)
        both = fabric.all_gather(torch.cat([v.flatten().double() for v in state.values()]))
        found[name] = state, float((both[0] - both[1]).abs().max())
    if fabric.is_global_zero:
        torch.save(found, out)
    leave_together(fabric)
