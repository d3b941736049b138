"""Undo the side effects of callbacks, so that a run computes the same with and without them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MtlError

if TYPE_CHECKING:
    from ..training.state import TrainState


@contextmanager
def restored_generators(device: torch.device) -> Iterator[None]:
    """Restore the random generators afterwards. Autograd is off inside."""
    devices = [device] if device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


@contextmanager
def untouched(train_state: TrainState, name: str) -> Iterator[None]:
    """Restore generators, train/eval modes and gradients afterwards.

    It reads all weights twice. name: of the callback, for the message.
    Raises MtlError if a weight or a buffer was changed.
    """
    nets: list[nn.Module] = [train_state.model]
    if train_state.ema:
        nets.append(train_state.ema)
    modes = [(module, module.training) for net in nets for module in net.modules()]
    weights = [t for net in nets for t in (*net.parameters(), *net.buffers())]
    versions, norms = [t._version for t in weights], _norms(weights)

    with restored_generators(train_state.fabric.device):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            # The step left every gradient at None.
            for parameter in train_state.model.parameters():
                parameter.grad = None

    # A write through `.data` does not change the version of a tensor, but it does its norm.
    same_versions = [t._version for t in weights] == versions
    if not same_versions or not _equal(_norms(weights), norms):
        raise MtlError(f"{name} changed the network: a callback may only read it (in eval mode)")


@torch.no_grad()
def _norms(weights: Sequence[Tensor]) -> Tensor:
    """(N,) float32: the norm of each floating-point tensor."""
    floats = [weight for weight in weights if weight.is_floating_point()]
    return torch.stack([norm.float() for norm in torch._foreach_norm(floats)])


def _equal(norms: Tensor, before: Tensor) -> bool:
    """Whether all norms are as before. A NaN that was there before the call is not a change."""
    return bool(((norms == before) | (norms.isnan() & before.isnan())).all())
