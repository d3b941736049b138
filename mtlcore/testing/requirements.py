"""What checks require: conditions, and shapes, ranges and finite values of tensors.

No function uses `assert`, since `python -O` removes it.
"""

from __future__ import annotations

from unittest import SkipTest

from torch import Tensor

from .trees import floats


class Skip(SkipTest):
    """Raised by a check that does not apply, with the reason; a skip for pytest and unittest.

    No other exception skips a check: a plugin that raises its own SkipTest, or that exits, fails.
    """


class Unproven(Exception):  # noqa: N818 - no error: the other examples still run
    """Raised by a check for an example that proves nothing, with the reason.

    The check is skipped if no example proves anything. A check that `must_prove` fails instead.
    """


def require(condition: bool, found: str) -> None:
    """Raise AssertionError unless the condition holds. found: what the check found instead."""
    if not condition:
        raise AssertionError(found)


def require_shape(x: Tensor, expected: tuple[int, ...], what: str) -> None:
    found = tuple(x.shape)
    require(found == expected, f"{what} has the shape {found}; expected {expected}")


def require_unit_range(x: Tensor, what: str, slack: float = 1e-4) -> None:
    """Require values in [0, 1], up to `slack` for rounding."""
    low, high = float(x.min()), float(x.max())
    within = low >= -slack and high <= 1 + slack
    require(within, f"{what} has values in [{low:.4g}, {high:.4g}]; expected [0, 1]")


def require_finite(tree: object, what: str) -> None:
    """Require that all floats in a tree of tensors are finite."""
    for leaf in floats(tree):
        bad = int((~leaf.isfinite()).sum())
        require(not bad, f"{what}: {bad} of {leaf.numel()} numbers are not finite")
