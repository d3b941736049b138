"""What every data source must hold."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import Subject, draws


class SourceSubject(Subject):
    """A source on the bench: its index and its pictures."""


CHECKS, BENCH = CheckList("source", draws()), SourceSubject
add_common(CHECKS, must_cite=False)
