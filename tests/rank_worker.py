"""What one of two gloo ranks does in `train/test_ranks.py`: the same joined inputs, its half of the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from lightning_fabric import Fabric
from toys import PCGRAD, UNCERTAINTY, Batch, PCGrad, Toy, batch, counted, experiment

from mtlcore import gather
from mtlcore.config.experiment import Experiment
from mtlcore.contracts import PreparedBatch
from mtlcore.model.views import prepare
from mtlcore.networks import alone
from mtlcore.rng import KeyedRng
from mtlcore.train.build import build_train_state
from mtlcore.train.devices import leave_together
from mtlcore.train.step import TrainState, train_step

STRAINING = ("puzzle_spatial", "inpainting", "barlow", "byol", "patches", "location", "fixmatch")
CASES: dict[str, dict[str, Any]] = {
    "equal": {},
    "uncertainty": {"weighting": UNCERTAINTY},
    "pcgrad": {"weighting": PCGRAD},
    "pcgrad at features": {
        "weighting": PCGrad(at="features"),
        "pretexts": ("location",),
        "supervised": "clean",
    },
}


def case(name: str) -> Experiment:
    fields = {"pretexts": STRAINING, "supervised": "both", "reduce": "geometric"} | CASES[name]
    return experiment(encoder=Toy(norm="none"), **fields)


def batches() -> list[Batch]:
    """Three steps: rank 1 has no label at all in the first; a task is absent from the second."""
    made = [
        batch(n=8, unlabeled=0, seed=1),
        batch(n=8, unlabeled=0, seed=2, absent=("pose",)),
        batch(n=8, unlabeled=0, seed=3),
    ]
    for present in made[0].present.values():
        present[:2], present[4:] = True, False
    return [counted([b])[0] for b in made]


def joined(train_state: TrainState, step: int, b: Batch) -> PreparedBatch:
    return prepare(train_state.experiment, b, KeyedRng((0, step, 0)))


def two_micro_batches(name: str, step: int) -> bool:
    """The last step in two uneven micro-batches a rank; coupled losses and Gramians at the features act on each one."""
    return step == 2 and name != "pcgrad at features"


def without(inputs: PreparedBatch, label: str) -> PreparedBatch:
    return evolve(inputs, head_inputs={k: v for k, v in inputs.head_inputs.items() if k != label})


def train_case(fabric: Fabric, name: str) -> dict[str, torch.Tensor]:
    """-> the model's state after three steps on this rank's half of each batch."""
    exp = evolve(case(name), optimizer=evolve(case(name).optimizer, name="sgd", lr=0.05))
    train_state = build_train_state(exp, fabric, 100, 10)
    rank, world = fabric.global_rank, fabric.world_size
    for step, b in enumerate(batches()):
        full = joined(train_state, step, b)
        if world == 1:
            train_step(
                train_state, [without(full, "barlow") if two_micro_batches(name, step) else full]
            )
            continue
        mine = slice(4 * rank, 4 * rank + 4)
        micro_batches = [full.cut(mine, world)]
        if two_micro_batches(name, step):
            cuts = (slice(4 * rank, 4 * rank + 1), slice(4 * rank + 1, 4 * rank + 4))
            micro_batches = [without(full.cut(cut, 2 * world), "barlow") for cut in cuts]
        train_step(train_state, micro_batches)
    return {
        k: v.clone()
        for k, v in (
            train_state.model.state_dict() | train_state.loss_weighting.state_dict()
        ).items()
    }


def with_batch_norm(fabric: Fabric) -> dict[str, torch.Tensor]:
    """Samples of gradients at the parameters, BatchNorm, an idle head, other samples on each rank: buffers must agree too."""
    exp = experiment(
        pretexts=("inpainting", "byol"),
        weighting=PCGRAD,
        entries={"inpainting": {"control": "views_only"}},
    )
    train_state = build_train_state(exp, fabric, 100, 10)
    for step in range(3):
        b = counted(
            [
                batch(seed=10 * step + fabric.global_rank),
                batch(seed=10 * step + 1 - fabric.global_rank),
            ]
        )[0]
        train_step(
            train_state, [prepare(exp, b, train_state.keyed_rng(0), world=fabric.world_size)]
        )
    return {k: v.clone() for k, v in train_state.model.state_dict().items()}


def run(fabric: Fabric, out: Path) -> None:
    """Write, for each case, this rank's state and how far the ranks differ. (A file: the launcher's queue holds 64 kB.)"""
    torch.set_num_threads(1)
    found = {}
    for name in (*CASES, "batch norm"):
        state = with_batch_norm(fabric) if name == "batch norm" else train_case(fabric, name)
        both = fabric.all_gather(torch.cat([v.flatten().double() for v in state.values()]))
        found[name] = state, float((both[0] - both[1]).abs().max())
    if fabric.is_global_zero:
        with alone():  # what evaluation does: a coupled pretext's `gather` must not ask the other rank, which is not here
            z = torch.randn(4, 3)
            assert torch.equal(gather(z), z)
        torch.save(found, out)
    leave_together(fabric)
