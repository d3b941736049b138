"""All checks of encoders. Each group is in its own file."""

from __future__ import annotations

from functools import partial

from ..common import COMMON
from ..kit import CheckList
from ..subject import batches
from .features import FEATURES_CHECKS
from .harness import EncoderSubject
from .parts import PARTS_CHECKS

CHECKS = CheckList("encoder", partial(batches, (2, 3)), (COMMON, FEATURES_CHECKS, PARTS_CHECKS))
HARNESS = EncoderSubject
