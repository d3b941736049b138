"""What every pretext task must hold."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import Subject, draws


class PretextSubject(Subject):
    """A pretext on the bench: a toy encoder, scenes of drawn pictures, its head."""


CHECKS, BENCH = CheckList("pretext", draws()), PretextSubject
add_common(CHECKS, must_cite=True)
