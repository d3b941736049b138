"""Global generators: seeded for a moment, or watched."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's global generator at this seed (for initial weights and dropout); as it was before, afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def touched(call: Callable[[], Any]) -> list[str]:
    """Which of the global generators of torch, numpy and Python `call` draws from, or seeds; they are put back afterwards."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        (
            torch.rand(1),
            np.random.rand(),
            random.random(),
        )  # off the beginning, so that a seed is seen the second time too
        before = _states()
        call()
        return [name for name, state in _states().items() if state != before[name]]
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


def _states() -> dict[str, Any]:
    algorithm, words, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (algorithm, np.asarray(words).tobytes(), rest),
        "random": random.getstate(),
    }
