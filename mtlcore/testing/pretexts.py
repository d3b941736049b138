"""What every pretext task must hold: the list of all checks. Each group stands in a file of its own."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .pretext_bench import PretextSubject
from .pretext_build import add_build
from .pretext_draws import add_training_draws
from .pretext_loss import add_batch, add_head, add_loss, add_metrics, add_numerics
from .pretext_rows import add_rows
from .pretext_speed import add_speed
from .pretext_training import add_answers, add_gradients, add_state, add_training
from .pretext_views import add_draws, add_views
from .subject import draws

CHECKS, BENCH = CheckList("pretext", draws()), PretextSubject
add_common(CHECKS, must_cite=True)
for add in (
    add_head,
    add_build,
    add_views,
    add_draws,
    add_loss,
    add_training_draws,
    add_batch,
    add_gradients,
    add_rows,
    add_state,
    add_metrics,
    add_numerics,
    add_speed,
    add_answers,
    add_training,
):
    add(CHECKS)
