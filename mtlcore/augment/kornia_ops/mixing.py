"""Operations that mix each sample with another one."""

from __future__ import annotations

from ...contracts import View
from ...errors import MtlError
from ...rng import Rng
from .catalog import KorniaOp


def mixed(view: View, op: KorniaOp, rng: Rng) -> View:  # noqa: ARG001
    """Return the view after one operation that mixes samples."""
    raise MtlError(f"{op.variant} is not supported yet: remove it from the list of operations")
