"""Check of what a pretext's head draws in training: nothing, but for dropout.

A head in eval mode may be pure, and draw all the same where `self.training` is true.
"""

from __future__ import annotations

from typing import Any

from ..kit import Group, require
from ..subject import Drawn
from ..training_draws import drawn_in_training
from .harness import LABEL, PretextSubject
from .loss import STEADY

TRAINING_DRAWS_CHECKS = Group()


@TRAINING_DRAWS_CHECKS.check(
    "randomness",
    why="draws of a global generator depend on what else ran: paired runs are not paired, resumed runs differ.",
    mend="draw in views(), from rng, and hand it to the head in the target; nn.Dropout where features are dropped.",
    needs=STEADY,
    core=True,
)
def draws_nothing_while_it_trains(subject: PretextSubject, drawn: Drawn) -> None:
    """In train mode, dropout apart, forward and loss neither draw from nor seed a global generator."""
    model, asked = subject.fresh(drawn.size), subject.ask(drawn)
    head: Any = model.heads[LABEL]
    features = [model.encoder(v.images) for v in asked.views]
    moved = drawn_in_training(
        head, lambda: subject.compute_losses(model, head(*features), asked.target)
    )
    require(not moved, f"the global generator of {' and '.join(moved)} has moved")
