"""Helpers for tests of pretexts that compare two views.

`on_rank` is the code of one of two gloo ranks, for `pretexts/test_pairs.py`.
"""

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
from toys import PCGRAD, Batch, Jitter, Toy, batch, counted, experiment, prepared_step, train_state

from mtlcore import PretextTask
from mtlcore.config.experiment import Experiment, PretextEntry
from mtlcore.contracts import PreparedBatch
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.optimizers import SGD
from mtlcore.rng import KeyedRng
from mtlcore.training.build import build_train_state
from mtlcore.training.devices import leave_together
from mtlcore.training.state import TrainState
from mtlcore.training.step import train_step

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
    """Return an experiment whose only pretext, with the label "pretext", is this task.

    entry: further keys of [pretext.pretext].
    """
    exp = experiment(tasks, size=24, **{"augment": Jitter()} | more)
    return evolve(exp, pretexts={"pretext": PretextEntry(task, **entry or {})})


def run(
    task: PretextTask,
    tasks: tuple[str, ...] = (),
    optimizer: str = "sgd",
    lr: float = 0.05,
    **more: Any,
) -> TrainState:
    """Return a training state of toys with this task as its only pretext."""
    return train_state(setting(task, tasks, **more), optimizer=optimizer, lr=lr)


def images(n: int = 6, tasks: tuple[str, ...] = (), seed: int = 0, **more: Any) -> Batch:
    """Return a batch of random images. Without tasks, no image has a label."""
    unlabeled = 1 if tasks else n
    return batch(n=n, size=24, tasks=tasks, seed=seed, **{"unlabeled": unlabeled} | more)


def answer(state: TrainState, made: PreparedBatch) -> Any:
    """Return the output of the pretext's head."""
    features, _ = state.model.encode(made)
    return state.model.forward_heads(features, made)["pretext"][0]


def colored(n: int, seed: int) -> Batch:
    """Return a batch of images with one color each, and a little noise.

    Two views of an image share its color, views of different images do not.
    """
    g = torch.Generator().manual_seed(seed)
    color = torch.rand(n, 3, 1, 1, generator=g)
    noise = torch.rand(n, 3, 24, 24, generator=g)
    mixed = color * 0.8 + noise * 0.2
    return evolve(images(n), images=(mixed * 255).round().byte())


def losses(state: TrainState, steps: int, n: int = 16) -> list[float]:
    """Train on new colored images in each step, and return the losses of the pretext."""
    found = []
    for step in range(steps):
        logged = train_step(state, counted([colored(n, step)]))
        found.append(float(logged["loss/pretext"]))
    return found


# ---------------------------------------------------------------------------------- two ranks

CASES = [(name, by) for name in COUPLED for by in ("losses", "samples")]


def train_case(fabric: Fabric, name: str, by: str) -> dict[str, torch.Tensor]:
    """Train three steps on this rank's half of a joint batch of 8. Return the model's state.

    by: "losses" for a loss-based weighting, "samples" for a gradient-based one.
    """
    more = {"weighting": PCGRAD} if by == "samples" else {}
    exp = setting(PAIRS[name], ("fer",), encoder=Toy(norm="none"), **more)
    sgd = SGD(lr=0.02, weight_decay=exp.optimizer.weight_decay)
    state = build_train_state(evolve(exp, optimizer=sgd), fabric, 100, 10)
    rank = fabric.global_rank
    world = fabric.world_size
    for step in range(3):
        [joint] = counted([images(8, ("fer",), seed=step, unlabeled=0)])
        mine = prepare(training_plan(exp), joint, KeyedRng((0, step, 0)))
        if world > 1:
            mine = mine.cut(slice(4 * rank, 4 * rank + 4), world)
        prepared_step(state, [mine])
    return {k: v.clone() for k, v in state.model.state_dict().items()}


def on_rank(fabric: Fabric, out: Path) -> None:
    """Run all cases on this rank. Rank 0 saves the state, and the difference between the ranks."""
    torch.set_num_threads(1)
    found = {}
    for name, by in CASES:
        state = train_case(fabric, name, by)
        both = fabric.all_gather(torch.cat([v.flatten().double() for v in state.values()]))
        found[f"{name} {by}"] = state, float((both[0] - both[1]).abs().max())
    if fabric.is_global_zero:
        torch.save(found, out)
    leave_together(fabric)
