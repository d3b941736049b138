"""What every pretext task must hold: the list of all checks. Each group stands in a file of its own."""

from __future__ import annotations

from .common import COMMON
from .kit import CheckList
from .pretext_batch import BATCH_CHECKS
from .pretext_build import BUILD_CHECKS
from .pretext_draws import TRAINING_DRAWS_CHECKS
from .pretext_harness import PretextSubject
from .pretext_loss import HEAD_CHECKS, LOSS_CHECKS, NUMERICS_CHECKS
from .pretext_metrics import METRICS_CHECKS
from .pretext_samples import SAMPLES_CHECKS
from .pretext_speed import SPEED_CHECKS
from .pretext_training import ANSWERS_CHECKS, GRADIENTS_CHECKS, STATE_CHECKS, TRAINING_CHECKS
from .pretext_views import DRAWS_CHECKS, VIEWS_CHECKS
from .subject import draws

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
