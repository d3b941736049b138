"""The work of one of two gloo ranks in `train/test_ranks.py`: its half of the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from lightning_fabric import Fabric
from toys import (
    PCGRAD,
    UNCERTAINTY,
    Batch,
    Mixup,
    PCGrad,
    Toy,
    batch,
    counted,
    experiment,
    prepared_step,
)

from mtlcore import ParameterGroups, component, gather
from mtlcore.config.experiment import Experiment
from mtlcore.contracts import PreparedBatch
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.networks import single_rank
from mtlcore.optimizers import SGD
from mtlcore.rng import KeyedRng
from mtlcore.training.build import build_train_state
from mtlcore.training.devices import leave_together
from mtlcore.training.state import TrainState
from mtlcore.training.step import train_step

PRETEXTS = ("puzzle_spatial", "inpainting", "barlow", "byol", "patches", "location", "fixmatch")
CASES: dict[str, dict[str, Any]] = {
    "equal": {},
    "uncertainty": {"weighting": UNCERTAINTY},
    "pcgrad": {"weighting": PCGRAD},
    "pcgrad at features": {
        "weighting": PCGrad(at="features"),
        "pretexts": ("location",),
        "supervised": "clean",
    },
    "mixup": {"augment": Mixup(), "pretexts": ("puzzle_spatial",), "reduce": "mean"},
    # Without Barlow Twins, whose rounding errors grow.
    "fine-tuning": {"pretexts": ("puzzle_spatial", "location", "fixmatch")},
}


def case(name: str) -> Experiment:
    fields = {"pretexts": PRETEXTS, "supervised": "both", "reduce": "geometric"} | CASES[name]
    return experiment(encoder=Toy(norm="none"), **fields)


def batches() -> list[Batch]:
    """Three steps. In the first rank 1 has no label at all; in the second a task is absent."""
    made = [
        batch(n=8, unlabeled=0, seed=1),
        batch(n=8, unlabeled=0, seed=2, absent=("pose",)),
        batch(n=8, unlabeled=0, seed=3),
    ]
    for present in made[0].present.values():
        present[:2], present[4:] = True, False
    return [counted([b])[0] for b in made]


def whole(train_state: TrainState, step: int, b: Batch) -> PreparedBatch:
    """The batch of both ranks, prepared as one."""
    return prepare(training_plan(train_state.experiment), b, KeyedRng((0, step, 0)))


def two_micro_batches(name: str, step: int) -> bool:
    """Whether each rank cuts this step into two uneven micro-batches: the last step.

    Gramians at the features are measured in each micro-batch, so they cannot be compared.
    """
    return step == 2 and name != "pcgrad at features"


def without(prepared: PreparedBatch, label: str) -> PreparedBatch:
    """Without a coupled loss, which compares the samples of each micro-batch."""
    head_inputs = {k: v for k, v in prepared.head_inputs.items() if k != label}
    return evolve(prepared, head_inputs=head_inputs)


def train_case(fabric: Fabric, name: str) -> dict[str, torch.Tensor]:
    """-> the model's state after three steps on this rank's half of each batch."""
    exp = evolve(case(name), optimizer=SGD(lr=0.05, weight_decay=case(name).optimizer.weight_decay))
    if name == "fine-tuning":
        exp = evolve(
            exp,
            freeze="stem",
            optimizer=component("optimizer", "timm:lookahead_sgd", lr=0.02),
            parameter_groups=ParameterGroups(encoder_lr=0.01),
        )
    train_state = build_train_state(exp, fabric, 100, 10)
    rank, world = fabric.global_rank, fabric.world_size
    for step, b in enumerate(batches()):
        full = whole(train_state, step, b)
        if world == 1:
            if two_micro_batches(name, step):
                full = without(full, "barlow")
            prepared_step(train_state, [full])
            continue
        mine = slice(4 * rank, 4 * rank + 4)
        micro_batches = [full.cut(mine, world)]
        if two_micro_batches(name, step):
            cuts = (slice(4 * rank, 4 * rank + 1), slice(4 * rank + 1, 4 * rank + 4))
            micro_batches = [without(full.cut(cut, 2 * world), "barlow") for cut in cuts]
        prepared_step(train_state, micro_batches)
    state = train_state.model.state_dict() | train_state.loss_weighting.state_dict()
    return {k: v.clone() for k, v in state.items()}


def with_batch_norm(fabric: Fabric) -> dict[str, torch.Tensor]:
    """A gradient for each loss, BatchNorm, an idle head, other samples on each rank.

    The buffers of both ranks must agree, too.
    """
    exp = experiment(
        pretexts=("inpainting", "byol"),
        weighting=PCGRAD,
        entries={"inpainting": {"control": "views_only"}},
    )
    train_state = build_train_state(exp, fabric, 100, 10)
    for step in range(3):
        seeds = (10 * step + fabric.global_rank, 10 * step + 1 - fabric.global_rank)
        mine = counted([batch(seed=seed) for seed in seeds])[0]
        train_step(train_state, [mine])
    return {k: v.clone() for k, v in train_state.model.state_dict().items()}


def run(fabric: Fabric, out: Path) -> None:
    """Write the state of this rank and the largest difference of both, for each case.

    It writes a file, since the launcher's queue holds 64 kB.
    """
    torch.set_num_threads(1)
    found = {}
    for name in (*CASES, "batch norm"):
        state = with_batch_norm(fabric) if name == "batch norm" else train_case(fabric, name)
        both = fabric.all_gather(torch.cat([v.flatten().double() for v in state.values()]))
        found[name] = state, float((both[0] - both[1]).abs().max())
    if fabric.is_global_zero:
        # As in evaluation: `gather` of a coupled pretext must not wait for the other rank.
        with single_rank():
            z = torch.randn(4, 3)
            assert torch.equal(gather(z), z)
        torch.save(found, out)
    leave_together(fabric)
