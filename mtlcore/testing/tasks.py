"""What every supervised task must hold."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import Subject, draws


class TaskSubject(Subject):
    """A task on the bench: drawn annotations and features, its head."""


CHECKS, BENCH = CheckList("task", draws()), TaskSubject
add_common(CHECKS, must_cite=False)
