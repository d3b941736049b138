"""Random numbers that depend on (seed, face, purpose) and on nothing else.

A counter-based generator: splitmix64's finalizer (Steele, Lea, Flood 2014) over the face's index,
in int64 arithmetic that wraps. So face i has the same numbers alone or in a batch, on any machine,
in any order of draws. A new parameter does not change the others.
"""

from __future__ import annotations

import zlib

import torch
from attrs import frozen
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def _signed(value: int) -> int:
    """The int64 with the same lower 64 bits."""
    value &= _MASK
    return value - 2**64 if value >= 2**63 else value


_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def mixed(x: Tensor) -> Tensor:
    """Mix int64 (any shape): every bit of the result depends on all bits of x."""
    # The masks make the arithmetic shifts of int64 logical ones.
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _SECOND
    return x ^ ((x >> 31) & (2**33 - 1))


def hashed(indices: Tensor, seed: int, purpose: str, columns: int = 1) -> Tensor:
    """int64 (B,) -> int64 (B, columns): independent bits for each face, purpose and column."""
    step = _signed(_GOLDEN)
    start = _signed(seed * _GOLDEN + zlib.crc32(purpose.encode()))
    key = mixed(indices * step + mixed(torch.tensor(start, device=indices.device)))
    column = torch.arange(1, columns + 1, device=indices.device)
    return mixed(key[:, None] + column * step)


def as_uniform(bits: Tensor) -> Tensor:
    """int64 -> float32 in [0, 1): the upper 24 bits, which a float32 holds exactly."""
    return ((bits >> 40) & (2**24 - 1)).float() / 2**24


@frozen(eq=False)
class Draws:
    """Random numbers of B faces. Each draw is (B, columns) float32 and is named by its purpose."""

    indices: Tensor  # (B,) int64
    seed: int

    def uniform(
        self, purpose: str, low: float = 0.0, high: float = 1.0, columns: int = 1
    ) -> Tensor:
        return low + (high - low) * as_uniform(hashed(self.indices, self.seed, purpose, columns))

    def bell(self, purpose: str, mean: float = 0.0, reach: float = 1.0, columns: int = 1) -> Tensor:
        """Draw bell-shaped numbers within mean +- reach, with standard deviation reach / 3.

        Each is the mean of three uniform numbers.
        """
        three = self.uniform(purpose, -1.0, 1.0, 3 * columns).unflatten(1, (columns, 3))
        return mean + reach * three.mean(2)

    def chance(self, purpose: str, probability: float | Tensor) -> Tensor:
        """(B, 1): 1.0 with this probability, else 0.0."""
        return (self.uniform(purpose) < probability).float()

    def dealt(self, purpose: str, cards: int) -> Tensor:
        """Deal cards in [0, cards): (B,) int64.

        Each aligned run of `cards` indices gets every card once, in its own random order.
        """
        hand = torch.div(self.indices, cards, rounding_mode="floor")
        order = hashed(hand, self.seed, purpose, cards)
        own = order.gather(1, (self.indices % cards)[:, None])
        return (order < own).sum(1)
