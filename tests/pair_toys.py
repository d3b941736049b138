"""Engines for the pretexts that compare two views, and what one of two gloo ranks does in `pretexts/test_pairs.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from lightning_fabric import Fabric
from mtl_pretexts.barlow_twins import BarlowTwins
from mtl_pretexts.byol import Byol
from mtl_pretexts.simclr import Simclr
from mtl_pretexts.vicreg import Vicreg
from toys import (
    PCGRAD,
    Batch,
    Jitter,
    Toy,
    batch,
    counted,
    experiment,
    prepared_batches,
    train_state,
)

from mtlcore import PretextTask
from mtlcore.config.experiment import Experiment, PretextEntry
from mtlcore.contracts import PreparedBatch
from mtlcore.model.views import prepare
from mtlcore.rng import KeyedRng
from mtlcore.train.build import build_train_state
from mtlcore.train.devices import leave_together
from mtlcore.train.step import TrainState, train_step

PAIRS: dict[str, PretextTask] = {
    "barlow_twins": BarlowTwins(width=16),
    "vicreg": Vicreg(width=16),
    "simclr": Simclr(width=8),
    "byol": Byol(hidden=16, width=8),
}
COUPLED = ("barlow_twins", "vicreg", "simclr")


def setting(
    task: PretextTask, tasks: tuple[str, ...] = (), entry: dict[str, Any] | None = None, **more: Any
) -> Experiment:
    """An experiment with this task, labeled "pretext", as its one pretext."""
    exp = experiment(tasks, size=24, **{"augment": Jitter()} | more)
    return evolve(exp, pretexts={"pretext": PretextEntry(task, **entry or {})})


def run(
    task: PretextTask,
    tasks: tuple[str, ...] = (),
    optimizer: str = "sgd",
    lr: float = 0.05,
    **more: Any,
) -> TrainState:
    """An train_state of toys on it."""
    return train_state(setting(task, tasks, **more), optimizer=optimizer, lr=lr)


def images(n: int = 6, tasks: tuple[str, ...] = (), seed: int = 0, **more: Any) -> Batch:
    """Random images, without labels where there are no tasks."""
    return batch(n=n, size=24, tasks=tasks, seed=seed, **{"unlabeled": 1 if tasks else n} | more)


def answer(eng: TrainState, made: PreparedBatch) -> Any:
    """The head's output about its one reading."""
    return eng.model.forward_heads(eng.model.encode(made)[0], made)["pretext"][0]


def colored(n: int, seed: int) -> Batch:
    """Images of one color each, a little noise on it: what two views of an image have in common, and strangers have not."""
    g = torch.Generator().manual_seed(seed)
    images_ = (
        torch.rand(n, 3, 1, 1, generator=g) * 0.8 + torch.rand(n, 3, 24, 24, generator=g) * 0.2
    )
    return evolve(images(n), images=(images_ * 255).round().byte())


def losses(eng: TrainState, steps: int, n: int = 16) -> list[float]:
    """The pretext's loss at each step, on fresh colored images."""
    made = (prepared_batches(eng, [colored(n, step)]) for step in range(steps))
    return [float(train_step(eng, micro_batches)["loss/pretext"]) for micro_batches in made]


# ---------------------------------------------------------------------------------------------------- two ranks

CASES = [(name, by) for name in COUPLED for by in ("losses", "samples")]


def train_case(fabric: Fabric, name: str, by: str) -> dict[str, torch.Tensor]:
    """-> the model's state after three steps on this rank's half of each joined batch of 8."""
    more = {"weighting": PCGRAD} if by == "samples" else {}
    exp = setting(PAIRS[name], ("fer",), encoder=Toy(norm="none"), **more)
    eng = build_train_state(
        evolve(exp, optimizer=evolve(exp.optimizer, name="sgd", lr=0.02)), fabric, 100, 10
    )
    rank, world = fabric.global_rank, fabric.world_size
    for step in range(3):
        joined = prepare(
            exp, counted([images(8, ("fer",), seed=step, unlabeled=0)])[0], KeyedRng((0, step, 0))
        )
        mine = joined if world == 1 else joined.cut(slice(4 * rank, 4 * rank + 4), world)
        train_step(eng, [mine])
    return {k: v.clone() for k, v in eng.model.state_dict().items()}


def on_rank(fabric: Fabric, out: Path) -> None:
    """Write, for each case, this rank's state and how far the two ranks are apart."""
    torch.set_num_threads(1)
    found = {}
    for name, by in CASES:
        state = train_case(fabric, name, by)
        both = fabric.all_gather(torch.cat([v.flatten().double() for v in state.values()]))
        found[f"{name} {by}"] = state, float((both[0] - both[1]).abs().max())
    if fabric.is_global_zero:
        torch.save(found, out)
    leave_together(fabric)
