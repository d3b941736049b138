"""What one of two gloo ranks does in `train/test_weighting_ranks.py`: each strategy on its half of the same joined inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from attrs import evolve
from lightning_fabric import Fabric
from toys import batch, counted
from weightings import STRATEGIES, small

from mtlcore.rng import Streams
from mtlcore.train.build import build_engine
from mtlcore.train.devices import leave_together
from mtlcore.train.step import train_step
from mtlcore.views import Inputs, prepare

STEPS = 20
State = dict[str, torch.Tensor]


def trained(fabric: Fabric, name: str) -> State:
    """The model and the weighting after 20 steps on this rank's half of each batch; a task is absent from every seventh."""
    exp = small(STRATEGIES[name])
    exp = evolve(exp, train=evolve(exp.train, optimizer="sgd", lr=0.02, momentum=0.5))
    engine = build_engine(exp, fabric, STEPS, 5)
    rank, world = fabric.global_rank, fabric.world_size
    for step, full in enumerate(_joined(exp)):
        part = full if world == 1 else full.rows(slice(4 * rank, 4 * rank + 4), world)
        logged = train_step(engine, [part])
        assert not bool(logged["skipped"]), (name, step)
    learned = {f"weighting.{k}": v for k, v in engine.weigher.state_dict().items()}
    return {k: v.clone() for k, v in (engine.model.state_dict() | learned).items()}


_inputs: dict[int, list[Inputs]] = {}


def _joined(exp) -> list[Inputs]:
    """The same pictures and questions for every strategy."""
    if not _inputs:
        absent = [("gender",) if step % 7 == 3 else () for step in range(STEPS)]
        made = [batch(n=8, unlabelled=0, seed=s, absent=a, tasks=("fer", "gender")) for s, a in enumerate(absent)]
        _inputs[0] = [prepare(exp, counted([b])[0], Streams((0, step, 0))) for step, b in enumerate(made)]
    return _inputs[0]


def run(fabric: Fabric, out: Path) -> None:
    """Write, for each strategy, this rank's state and how far the ranks differ."""
    torch.set_num_threads(1)
    found = {}
    for name in STRATEGIES:
        state = trained(fabric, name)
        both = fabric.all_gather(torch.cat([v.flatten().double() for v in state.values()]))
        found[name] = state, float((both[0] - both[1]).abs().max())
    if fabric.is_global_zero:
        torch.save(found, out)
    leave_together(fabric)
