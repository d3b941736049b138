"""Checks of a run with a pretext: its state in checkpoints, weight 0, and real optimizer steps."""

from __future__ import annotations

import copy

import torch

from ...networks import EMA
from ..generators import require_no_global_draws, seeded
from ..kit import Group
from ..requirements import Skip, require, require_finite
from ..subject import Drawn
from ..toml import table
from ..trees import equal
from .gradients import ENCODER
from .harness import LABEL, PretextSubject, perturb_weights, raw, toy_batch
from .loss import STEADY

SAMPLES = 8
STEPS = 2

STATE_CHECKS = Group()
TRAINING_CHECKS = Group()


@STATE_CHECKS.check(
    "state",
    why="a resumed run would continue with another head than the trained one.",
    mend="Use nn.Parameter for what learns and register_buffer for what is drawn or counted: no "
    "bare tensors, no globals.",
    needs=STEADY,
    core=True,
)
def state_round_trip_keeps_the_loss(subject: PretextSubject) -> None:
    """A model in a new process that loads a trained model's state has the same loss."""
    drawn = Drawn(4, 32, 0)
    trained = subject.fresh(seed=1)
    loaded = subject.in_a_new_process().fresh(seed=2)

    # The state must also hold what a step in train mode changes.
    with seeded(1):
        subject.loss(trained.train(), subject.batch(drawn)).sum().backward()
    perturb_weights(trained, drawn)
    loaded.load_state_dict(copy.deepcopy(trained.state_dict()))
    with torch.no_grad():
        before = subject.loss(trained.eval(), subject.batch(drawn))
        after = subject.loss(loaded.eval(), subject.batch(drawn))
    same = torch.allclose(before, after, rtol=1e-5, atol=1e-6)
    require(same, f"the loss changes from {before} to {after}")


@STATE_CHECKS.check(
    "state",
    why="every checkpoint would contain a network that never changes.",
    mend="Wrap a fixed network in FrozenModule(net): it moves with the model and is not saved.",
    needs=STEADY,
)
def frozen_networks_are_not_saved(subject: PretextSubject) -> None:
    """The head's state holds trained weights, momentum copies and buffers, no fixed weights."""
    head = subject.model(32).heads[LABEL]
    momentum_copies: set[int] = set()
    for module in head.modules():
        if isinstance(module, EMA):
            momentum_copies.update(id(p) for p in module.parameters())

    saved = set(head.state_dict())
    fixed = [
        name
        for name, p in head.named_parameters()
        if name in saved and not p.requires_grad and id(p) not in momentum_copies
    ]
    require(not fixed, f"saved, though they never change: {', '.join(fixed[:5])}")


@TRAINING_CHECKS.check(
    "training",
    why="a variant with weight 0 is a control. It must equal a run without the table.",
    mend="Build and draw nothing in the constructor: networks belong in build(), draws in views().",
    needs="survives_a_toml_round_trip",
)
def weight_zero_removes_the_pretext(subject: PretextSubject) -> None:
    """A table with weight = 0 is dropped, and reading it uses no global generator."""
    from ...config import parse

    if not any(cls is subject.cls for cls in subject.catalog.classes.values()):
        raise Skip("no entry point and no plugin file provides this class")
    tables = {
        "task": {"category": {"name": "classification"}},
        "train": {"steps": 1},
        "pretext": {LABEL: {**table(subject.component), "weight": 0}},
    }
    require_no_global_draws(lambda: parse(tables, subject.catalog), "reading the table")
    pretexts = parse(tables, subject.catalog).pretexts
    require(not pretexts, f"the run still has the pretext {pretexts}")


@TRAINING_CHECKS.check(
    "training",
    why="a run takes this step.",
    mend="Look for what forward changes in train mode: counters, running means, buffers.",
    needs=(ENCODER, "state_round_trip_keeps_the_loss"),
    core=True,
)
def real_steps_train(subject: PretextSubject) -> None:
    """Optimizer steps have finite losses and gradients, and change the encoder."""
    # Imported late: they take seconds.
    from lightning_fabric import Fabric

    from ...training.build import build_train_state
    from ...training.step import train_step

    experiment = subject.experiment(32)
    batch = toy_batch(raw(Drawn(SAMPLES, 32, 0)), subject.shared_labels)
    with seeded(0):
        fabric = Fabric(accelerator="cpu", devices=1)
        state = build_train_state(experiment, fabric, STEPS, STEPS)
        before = [p.detach().clone() for p in state.model.encoder.parameters()]
        for step in range(1, STEPS + 1):
            logged = train_step(state, [batch])
            require_finite(logged[f"loss/{LABEL}"], f"the loss of step {step}")
            skipped = bool(logged["skipped"])
            require(not skipped, f"step {step} was skipped: its gradient is not finite")
    after = list(state.model.encoder.parameters())
    require(not equal(before, after), "the encoder has not changed")
