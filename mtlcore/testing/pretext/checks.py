"""What every pretext task must hold: the list of all checks. Each group stands in a file of its own."""

from __future__ import annotations

from ..common import COMMON
from ..kit import CheckList
from ..subject import draws
from .batch import BATCH_CHECKS
from .build import BUILD_CHECKS
from .draws import TRAINING_DRAWS_CHECKS
from .harness import PretextSubject
from .loss import HEAD_CHECKS, LOSS_CHECKS, NUMERICS_CHECKS
from .metrics import METRICS_CHECKS
from .samples import SAMPLES_CHECKS
from .speed import SPEED_CHECKS
from .training import ANSWERS_CHECKS, GRADIENTS_CHECKS, STATE_CHECKS, TRAINING_CHECKS
from .views import DRAWS_CHECKS, VIEWS_CHECKS

GROUPS = (
    COMMON,
    HEAD_CHECKS,
    BUILD_CHECKS,
    VIEWS_CHECKS,
    DRAWS_CHECKS,
    LOSS_CHECKS,
    TRAINING_DRAWS_CHECKS,
    BATCH_CHECKS,
    GRADIENTS_CHECKS,
    SAMPLES_CHECKS,
    STATE_CHECKS,
    METRICS_CHECKS,
    NUMERICS_CHECKS,
    SPEED_CHECKS,
    ANSWERS_CHECKS,
    TRAINING_CHECKS,
)
CHECKS, HARNESS = CheckList("pretext", draws(), GROUPS), PretextSubject
