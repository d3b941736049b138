"""Networks that the optimizer does not train, and one collective: all that a pretext author needs beside `torch.nn`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

# Plain globals, so one training a process: a ContextVar would part threads, but breaks the graph of torch 2.11's dynamo.
_mixed = False
_alone = False


@contextmanager
def losses_in_fp32(device: str) -> Iterator[None]:
    """Autocast off for the arithmetic of losses; the networks below, which a loss may call, keep the run's precision."""
    global _mixed
    before, _mixed = _mixed, torch.is_autocast_enabled(device)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        _mixed = before


def _run(net: nn.Module, inputs: tuple[Any, ...]) -> Any:
    device = next(x for x in tree_leaves(inputs) if isinstance(x, Tensor)).device.type
    with torch.autocast(device, enabled=_mixed or torch.is_autocast_enabled(device)):
        return net(*inputs)


class EMA(nn.Module):
    """A momentum copy of `source`: copy <- momentum * copy + (1 - momentum) * source, once an optimizer step, by the core.

    Saved with the run, never trained. momentum: in [0, 1). final: in [0, 1]; the momentum moves there linearly over the run.
    batch_stats: norm layers use the batch's own statistics (BYOL's teacher) instead of the copied running ones.
    """

    def __init__(
        self,
        source: nn.Module,
        momentum: float = 0.99,
        final: float | None = None,
        batch_stats: bool = False,
    ) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple: not our submodule, not in our state
        self.momentum, self.final, self.batch_stats = (
            momentum,
            momentum if final is None else final,
            batch_stats,
        )
        self.copy = copy.deepcopy(source).requires_grad_(False)
        self.train(False)

    def forward(self, *inputs: Any) -> Any:
        return _run(self.copy, inputs)

    def train(self, mode: bool = True) -> EMA:
        self.training = mode
        self.copy.train(mode and self.batch_stats)
        return self

    @torch.no_grad()
    def update(self, progress: float, ok: Tensor | float = 1.0) -> None:
        """progress: of the run, in [0, 1]. ok: a device scalar, 0 where the optimizer skipped the step; nothing is read back."""
        rate = (
            1 - (self.momentum + (self.final - self.momentum) * min(progress, 1.0))
        ) * torch.as_tensor(ok)
        mine, its = (
            [p.data for p in self.copy.parameters()],
            [p.data for p in self._source[0].parameters()],
        )
        torch._foreach_lerp_(
            mine, its, [rate.to(mine[0])] * len(mine)
        )  # a list of tensors: a scalar would be read back
        for my, his in zip(self.copy.buffers(), self._source[0].buffers(), strict=True):
            my.copy_(his)

    def reset(self) -> None:
        """Equal the source again, after other weights were loaded into it."""
        self.copy.load_state_dict(self._source[0].state_dict())


class SharedHead(nn.Module):
    """Somebody else's network (a supervised head): its owner trains and saves it; here it is only called, gradient included.

    A head, or a part of one, that a pretext shares counts as used by it, and as shared by gradient-level weightings.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self._net = (net,)  # in a tuple: not our submodule, not in our state

    @property
    def net(self) -> nn.Module:
        return self._net[0]

    def forward(self, *inputs: Any) -> Any:
        return _run(self.net, inputs)


class FrozenModule(nn.Module):
    """A fixed network (VGG16): never trained, always in eval mode, NOT saved, but moved with the model."""

    net: nn.Module

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        object.__setattr__(
            self, "net", net.eval().requires_grad_(False)
        )  # not registered: not in our state

    def forward(self, *inputs: Any) -> Any:
        return _run(self.net, inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModule:
        self.net._apply(fn)
        return super()._apply(fn, recurse)


@contextmanager
def running_statistics_kept(net: nn.Module) -> Iterator[None]:
    """In training, norm layers normalize by the batch as ever, and leave their running statistics alone."""
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for m in norms:
            m.track_running_stats = not m.training
        yield
    finally:
        for m in norms:
            m.track_running_stats = True


def gather(x: Tensor) -> Tensor:
    """(B, ...) -> (world * B, ...), differentiable: a coupled loss sees the joined batch. Plain x on one process."""
    if world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


def total(x: Tensor) -> Tensor:
    """Sum over ranks, in place; x itself on one process."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


@contextmanager
def alone() -> Iterator[None]:
    """One rank works by itself (evaluation): nothing below asks the others, who would not answer."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Ranks that compute together here: 1 without data parallel, and while one rank is `alone`."""
    together = dist.is_available() and dist.is_initialized() and not _alone
    return dist.get_world_size() if together else 1
