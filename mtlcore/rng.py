"""Random draws that depend only on (run seed, optimizer step, global micro-batch, purpose).

They depend neither on the rank nor on torch's global generators. Hence two ranks with B/2 samples
each draw the same numbers as one process with two micro-batches of B/2. A resumed run draws the
same numbers as an uninterrupted one.
"""

from __future__ import annotations

import hashlib

import torch
from attrs import frozen
from torch import Tensor

CPU = torch.device("cpu")

# The purposes of all draws. They are data: the seed is a hash of their spelling, so another
# spelling draws other numbers, and committed results could not be reproduced. A pretext task draws
# under its own label.
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
    """A CPU generator that returns its draws on the run's device, without a host sync."""

    generator: torch.Generator
    device: torch.device

    def rand(self, *shape: int) -> Tensor:
        """Draw float32, uniform in [0, 1)."""
        return self._to_device(torch.rand(shape, generator=self.generator))

    def randn(self, *shape: int) -> Tensor:
        """Draw float32, standard normal."""
        if self.device.type == "cpu":
            return torch.randn(shape, generator=self.generator)

        # Noise is as large as images, so it is drawn on the device instead of copied to it.
        local = torch.Generator(self.device).manual_seed(self.integer(0, 2**62))
        return torch.randn(shape, generator=local, device=self.device)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Draw int64, uniform in [0, high)."""
        return self._to_device(torch.randint(high, shape, generator=self.generator))

    def permutations(self, samples: int, n: int) -> Tensor:
        """Draw (samples, n) int64: for each sample a uniform permutation of 0 ... n-1."""
        return self._to_device(torch.rand(samples, n, generator=self.generator).argsort(1))

    def integer(self, low: int, high: int) -> int:
        """Draw one host integer, uniform in [low, high], such as a size for the whole batch."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def _to_device(self, draw: Tensor) -> Tensor:
        return to_device(draw, self.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, without a host sync. One that is there is returned as it is."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    # Only a copy from pinned memory is asynchronous.
    return tensor.pin_memory().to(device, non_blocking=True)


@frozen
class KeyedRng:
    """The generators of one micro-batch, one for each purpose.

    key: (run seed, optimizer step, global micro-batch).
    """

    key: tuple[int, ...]
    device: torch.device = CPU

    def seed(self, *purpose: str | int | None) -> int:
        """Return the 56-bit seed of a purpose."""
        text = repr((self.key, purpose))
        digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
        return int.from_bytes(digest, "big")

    def __call__(self, *purpose: str | int | None) -> Rng:
        """Return a new generator for a purpose."""
        return Rng(torch.Generator().manual_seed(self.seed(*purpose)), self.device)
