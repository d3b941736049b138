"""What every supervised task must hold: the list of all checks. Each group stands in a file of its own."""

from __future__ import annotations

from ..common import COMMON
from ..kit import CheckList
from ..subject import draws
from .answers import ANSWERS_CHECKS
from .harness import TaskSubject
from .labels import HEAD_CHECKS, LABELS_CHECKS
from .loss import LOSS_CHECKS, NUMERICS_CHECKS
from .movement import MOVEMENT_CHECKS

CHECKS, HARNESS = (
    CheckList(
        "task",
        draws(),
        (
            COMMON,
            LABELS_CHECKS,
            HEAD_CHECKS,
            LOSS_CHECKS,
            ANSWERS_CHECKS,
            MOVEMENT_CHECKS,
            NUMERICS_CHECKS,
        ),
    ),
    TaskSubject,
)
