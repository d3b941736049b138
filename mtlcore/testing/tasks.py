"""What every supervised task must hold: the list of all checks. Each group stands in a file of its own."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import draws
from .tasks_answers import add_answers
from .tasks_bench import TaskSubject
from .tasks_labels import add_head, add_labels
from .tasks_loss import add_loss, add_numerics
from .tasks_movement import add_movement

CHECKS, BENCH = CheckList("task", draws()), TaskSubject
add_common(CHECKS, must_cite=False)
for add in (add_labels, add_head, add_loss, add_answers, add_movement, add_numerics):
    add(CHECKS)
