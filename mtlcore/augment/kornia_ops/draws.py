"""Draw kornia's parameters from a generator of ours instead of torch's global one.

kornia draws with `torch.rand`, `torch.randperm` and `torch.distributions`, always on the CPU, and
offers no generator. A `TorchFunctionMode` sees each of these calls, and adds the generator. It is
active in one thread only, so draws that run ahead in another thread disturb nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_DRAWS: frozenset[Callable[..., Any]] = frozenset(
    {
        torch.bernoulli,
        torch.binomial,
        torch.multinomial,
        torch.normal,
        torch.poisson,
        torch.rand,
        torch.rand_like,
        torch.randint,
        torch.randint_like,
        torch.randn,
        torch.randn_like,
        torch.randperm,
        torch._sample_dirichlet,
        torch._standard_gamma,
        torch.Tensor.bernoulli,
        torch.Tensor.bernoulli_,
        torch.Tensor.cauchy_,
        torch.Tensor.exponential_,
        torch.Tensor.geometric_,
        torch.Tensor.log_normal_,
        torch.Tensor.multinomial,
        torch.Tensor.normal_,
        torch.Tensor.random_,
        torch.Tensor.uniform_,
    }
)
"""Every function of torch that draws and takes a generator."""


class DrawsFrom(TorchFunctionMode):
    """While active: every draw of this thread on the CPU comes from `generator`."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _DRAWS:
            given["generator"] = self.generator
        return func(*args, **given)
