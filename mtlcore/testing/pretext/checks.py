"""All checks of pretext tasks. Each group is in its own file."""

from __future__ import annotations

from ..common import COMMON
from ..kit import CheckList
from ..subject import batches
from .batch import BATCH_CHECKS
from .build import BUILD_CHECKS
from .drawing import DRAWING_CHECKS
from .geometry import GEOMETRY_CHECKS
from .gradients import GRADIENTS_CHECKS
from .harness import PretextSubject
from .loss import LOSS_CHECKS, NUMERICS_CHECKS
from .metrics import METRICS_CHECKS
from .outputs import OUTPUTS_CHECKS
from .questions import QUESTIONS_CHECKS
from .speed import SPEED_CHECKS
from .targets import TARGETS_CHECKS
from .training import STATE_CHECKS, TRAINING_CHECKS
from .views import VIEWS_CHECKS

GROUPS = (
    COMMON,
    BUILD_CHECKS,
    VIEWS_CHECKS,
    GEOMETRY_CHECKS,
    TARGETS_CHECKS,
    QUESTIONS_CHECKS,
    LOSS_CHECKS,
    BATCH_CHECKS,
    GRADIENTS_CHECKS,
    OUTPUTS_CHECKS,
    STATE_CHECKS,
    METRICS_CHECKS,
    NUMERICS_CHECKS,
    SPEED_CHECKS,
    DRAWING_CHECKS,
    TRAINING_CHECKS,
)
CHECKS = CheckList("pretext", batches, GROUPS)
HARNESS = PretextSubject
