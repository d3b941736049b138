"""The global random generators of torch, numpy and Python: seed them for a block, or watch them.

A run draws from its own keyed generators. A plugin that uses a global one makes paired and resumed
runs differ, so many checks watch them. Only dropout in train mode is an exception.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from .requirements import require

HAVE_DROPOUT = (_DropoutNd, nn.MultiheadAttention, nn.RNNBase)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block; restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def generators_used(call: Callable[[], object]) -> list[str]:
    """Names of the global generators that `call` draws from or seeds; their states are restored."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        # One draw of each. Right after seeding, a second seeding by `call` would change nothing.
        torch.rand(1)
        np.random.rand()
        random.random()

        before = _states()
        call()
        return [name for name, state in _states().items() if state != before[name]]
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def generators_used_in_training(head: nn.Module, call: Callable[[], object]) -> list[str]:
    """The same with `head` in train mode and its dropout switched off. The head stays so."""
    head.train()
    for layer in head.modules():
        if isinstance(layer, HAVE_DROPOUT):
            layer.eval()
    with _NoDropout():
        return generators_used(call)


def require_no_global_draws(
    call: Callable[[], object], what: str, *, allowed: Sequence[str] = ()
) -> None:
    """Require that `call` changes no global generator. allowed: names of exceptions."""
    require_unused(generators_used(call), what, allowed=allowed)


def require_unused(used: Sequence[str], what: str, *, allowed: Sequence[str] = ()) -> None:
    """Require that no generator in this list is used, apart from those allowed."""
    names = [name for name in used if name not in allowed]
    require(not names, f"{what} draws from the global generator of {' and '.join(names)}")


def _states() -> dict[str, object]:
    algorithm, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (algorithm, np.asarray(keys).tobytes(), rest),
        "random": random.getstate(),
    }


class _NoDropout(TorchFunctionMode):
    """Functions of dropout, `torch.nn.functional.dropout` among them, return their input."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        options = dict(kwargs or {})
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else options["input"]
        if options.get("dropout_p"):  # scaled_dot_product_attention
            options["dropout_p"] = 0.0
        return func(*args, **options)
