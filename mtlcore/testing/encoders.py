"""What every encoder must hold."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import Subject, draws


class EncoderSubject(Subject):
    """An encoder on the bench."""


CHECKS, BENCH = CheckList("encoder", draws()), EncoderSubject
add_common(CHECKS, must_cite=False)
