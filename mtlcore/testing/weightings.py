"""What every loss weighting must hold."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import Subject, draws


class WeightingSubject(Subject):
    """A weighting on the bench: drawn losses and Gramians."""


CHECKS, BENCH = CheckList("weighting", draws()), WeightingSubject
add_common(CHECKS, must_cite=True)
