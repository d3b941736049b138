"""Randomness: every draw is a function of (run seed, optimizer step, global micro-batch, purpose), and of nothing else.

Never of the rank, never of the global generators: so two ranks of B/2 samples draw what one process draws that accumulates two
micro-batches of B/2, and a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch
from attrs import frozen
from torch import Tensor

CPU = torch.device("cpu")

# The purposes of all draws. They are data, not words: another spelling draws other numbers, and no committed run could be
# repeated. A pretext task draws under its own label.
WEIGHTS = "weights"
DROPOUT = "dropout"
WEIGHTING = "weighting"
AUGMENT = "augment"
FINISH = "finish"
CONTROL = "control"
VIEW = "view"
LABELED = "labelled"
UNLABELED = "unlabelled"
TEST = "test"
VALIDATION = "validation"
LIMIT = "limit"
LABELS = "labels"


@frozen(eq=False)
class Rng:
    """A CPU generator whose draws land on the run's device, with no host sync."""

    generator: torch.Generator
    device: torch.device

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), float32."""
        return self._landed(torch.rand(shape, generator=self.generator))

    def randn(self, *shape: int) -> Tensor:
        """Standard normal, float32; drawn ON the device, since noise comes in the size of images."""
        if self.device.type == "cpu":
            return torch.randn(shape, generator=self.generator)
        local = torch.Generator(self.device).manual_seed(self.integer(0, 2**62))
        return torch.randn(shape, generator=local, device=self.device)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64."""
        return self._landed(torch.randint(high, shape, generator=self.generator))

    def permutations(self, samples: int, n: int) -> Tensor:
        """(samples, n) int64: one uniform permutation of 0 ... n-1 a sample."""
        return self._landed(torch.rand(samples, n, generator=self.generator).argsort(1))

    def integer(self, low: int, high: int) -> int:
        """One host integer in [low, high] for the whole batch (a size)."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def _landed(self, draw: Tensor) -> Tensor:
        return (
            draw
            if self.device.type == "cpu"
            else draw.pin_memory().to(self.device, non_blocking=True)
        )


@frozen
class KeyedRng:
    """The generators of one micro-batch, by purpose. key: (run seed, optimizer step, global micro-batch)."""

    key: tuple[int, ...]
    device: torch.device = CPU

    def seed(self, *purpose: str | int | None) -> int:
        """A 56-bit seed for this purpose."""
        digest = hashlib.blake2b(repr((self.key, purpose)).encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big")

    def __call__(self, *purpose: str | int | None) -> Rng:
        return Rng(torch.Generator().manual_seed(self.seed(*purpose)), self.device)
