"""All checks of supervised tasks. Each group is in its own file."""

from __future__ import annotations

from ..common import COMMON
from ..kit import CheckList
from ..subject import batches
from .decoding import DECODING_CHECKS
from .harness import TaskSubject
from .labels import HEAD_CHECKS, LABELS_CHECKS
from .loss import LOSS_CHECKS, NUMERICS_CHECKS
from .movement import MOVEMENT_CHECKS

GROUPS = (
    COMMON,
    LABELS_CHECKS,
    HEAD_CHECKS,
    LOSS_CHECKS,
    DECODING_CHECKS,
    MOVEMENT_CHECKS,
    NUMERICS_CHECKS,
)
CHECKS = CheckList("task", batches, GROUPS)
HARNESS = TaskSubject
