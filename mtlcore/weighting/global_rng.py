"""Let code that draws from torch's global generator draw from the step's own generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..rng import Rng


@contextmanager
def global_rng_from(rng: Rng) -> Iterator[None]:
    """Seed torch's global CPU generator from `rng`, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.integer(0, 2**62))
        yield
