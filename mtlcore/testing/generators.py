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
from attrs import frozen
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from .requirements import require
from .trees import equal

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


def require_torch_draws_alone(build: Callable[[], object]) -> None:
    """Require that `build` draws from torch's global generator alone, and does not seed it."""
    states: list[Tensor] = []

    def built() -> None:
        build()
        states.append(torch.get_rng_state())

    for seed in (1, 2):
        with seeded(seed):
            require_no_global_draws(built, "build", allowed=["torch"])
    require(not torch.equal(*states), "build seeds the global generator of torch")


def require_same_from_one_seed(build: Callable[[], nn.Module]) -> None:
    """Require equal heads and an equal state of the generator from one seed, not from two."""
    require_torch_draws_alone(build)
    one, again, other = (_Built.of(build, seed) for seed in (1, 1, 2))
    require(equal(one.state, again.state), "two heads from one seed differ")
    same_state = torch.equal(one.generator, again.generator)
    require(same_state, "the same seed leaves the generator in two states")

    # A constant weight (a bias of zeros) is the same for all seeds.
    drawn = [name for name, w in one.weights.items() if bool((w != w.flatten()[0]).any())]
    alike = all(torch.equal(one.weights[name], other.weights[name]) for name in drawn)
    require(not drawn or not alike, f"two seeds give the same weights: {', '.join(drawn[:5])}")


@frozen(eq=False)
class _Built:
    """A head that was built from a seed.

    state: all that is saved. weights: the trainable ones. generator: its state afterwards.
    """

    state: dict[str, Tensor]
    weights: dict[str, Tensor]
    generator: Tensor

    @classmethod
    def of(cls, build: Callable[[], nn.Module], seed: int) -> _Built:
        with seeded(seed):
            head = build()
            generator = torch.get_rng_state()
        trainable = {n: p for n, p in head.named_parameters() if p.requires_grad and p.numel()}
        weights = {name: p.detach() for name, p in trainable.items()}
        return cls(dict(head.state_dict()), weights, generator)


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
