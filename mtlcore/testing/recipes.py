"""What every augmentation recipe must hold."""

from __future__ import annotations

from .common import add_common
from .kit import CheckList
from .subject import Subject, draws


class RecipeSubject(Subject):
    """A recipe on the bench: drawn pictures and their views."""


CHECKS, BENCH = CheckList("augment", draws()), RecipeSubject
add_common(CHECKS, must_cite=False)
