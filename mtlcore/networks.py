"""Networks that the optimizer does not train, and sums over ranks.

A pretext author needs no more than this beside `torch.nn`: `EMA` (momentum copies), `SharedHead`
(another task's head), `FrozenModule` (fixed networks), and `gather` (the batch of all ranks).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from .errors import MtlError

T = TypeVar("T")

# Plain globals, so a process can run one training at a time. A ContextVar would separate threads,
# but it breaks the graph of torch 2.11's dynamo.
_autocast_networks = False
_single_rank = False


@contextmanager
def losses_in_fp32(device: str) -> Iterator[None]:
    """Compute losses without autocast. device: a device type, "cpu" or "cuda".

    Networks of this module that a loss calls still run in the precision of the run.
    """
    global _autocast_networks
    before = _autocast_networks
    _autocast_networks = torch.is_autocast_enabled(device)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        _autocast_networks = before


def to_fp32(output: T) -> T:
    """Return an output with its floats in fp32. output: a pytree of tensors and other values."""

    def cast_leaf(leaf: object) -> object:
        return leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return cast(T, tree_map(cast_leaf, output))


def contiguous(tree: T) -> T:
    """Return a pytree with contiguous tensors. Some metrics of torchmetrics need them."""

    def of_leaf(leaf: object) -> object:
        return leaf.contiguous() if isinstance(leaf, Tensor) else leaf

    return cast(T, tree_map(of_leaf, tree))


def _call(net: Callable[..., object], inputs: tuple[object, ...]) -> object:
    """Call a network, or a method of it, under the autocast setting of the run."""
    tensors = (leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    device = next(tensors).device.type
    enabled = _autocast_networks or torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=enabled):
        return net(*inputs)


class EMA(nn.Module):
    """A momentum copy of `source`, saved with the run and never trained.

    Once an optimizer step, the core computes copy <- momentum * copy + (1 - momentum) * source.

    momentum: in [0, 1).
    final: in [0, 1]. The momentum changes linearly to this value during the run. None: constant.
    batch_stats: True if BatchNorm layers normalize by the batch (BYOL's teacher), not by the copied
    running statistics.

    Raises MtlError if `source` refers to a module outside of it by a `SharedHead`: a copy of that
    module would keep its initial weights.
    """

    def __init__(
        self,
        source: nn.Module,
        momentum: float = 0.99,
        final: float | None = None,
        batch_stats: bool = False,
    ) -> None:
        super().__init__()
        _require_whole(source)
        # A tuple hides the module from torch: it must be neither our submodule nor in our state.
        self._source = (source,)
        self.momentum = momentum
        self.final = momentum if final is None else final
        self.batch_stats = batch_stats
        self.copy = copy.deepcopy(source).requires_grad_(False)
        self.train(False)

    def forward(self, *inputs: object) -> object:
        """Call the copy."""
        return _call(self.copy, inputs)

    def call(self, method: str, *inputs: object) -> object:
        """Call a method of the copy, such as `finest_maps` of an encoder."""
        return _call(getattr(self.copy, method), inputs)

    def train(self, mode: bool = True) -> EMA:
        """Set the mode. The copy stays in eval mode, unless `batch_stats`."""
        self.training = mode
        self.copy.train(mode and self.batch_stats)
        return self

    @torch.no_grad()
    def update(self, progress: float, ok: Tensor | float = 1.0) -> None:
        """Move the copy towards the source.

        progress: completed share of the run, in [0, 1].
        ok: a scalar on the device, 0 if the optimizer skipped the step. It stays on the device.
        """
        momentum = self.momentum + (self.final - self.momentum) * min(progress, 1.0)
        rate = (1 - momentum) * torch.as_tensor(ok)
        copied = [p.data for p in self.copy.parameters()]
        sources = [p.data for p in self._source[0].parameters()]

        # A list of tensors as weights: a scalar would be read back to the host.
        rates = [rate.to(copied[0])] * len(copied)
        torch._foreach_lerp_(copied, sources, rates)

        # Buffers are copied: counters such as num_batches_tracked can't be averaged.
        copy_all(list(self.copy.buffers()), list(self._source[0].buffers()))

    def reset(self) -> None:
        """Copy the source. Needed after other weights were loaded into it."""
        self.copy.load_state_dict(self._source[0].state_dict())


class SharedHead(nn.Module):
    """A reference to a supervised head, or to a part of one, inside a pretext head.

    The head's own task trains and saves it. Gradients of the pretext's loss flow through it, so a
    gradient-based weighting counts the head among the shared parameters.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # A tuple hides the module from torch: it must be neither our submodule nor in our state.
        self._net = (net,)

    @property
    def net(self) -> nn.Module:
        """The shared module itself."""
        return self._net[0]

    def forward(self, *inputs: object) -> object:
        """Call the shared module."""
        return _call(self.net, inputs)


def _require_whole(source: nn.Module) -> None:
    """Raise MtlError if a module shares a part with a module outside of it."""
    own = set(source.modules())
    shared = [m for m in source.modules() if isinstance(m, SharedHead) and m.net not in own]
    if shared:
        part = type(shared[0].net).__name__
        raise MtlError(
            f"EMA({type(source).__name__}): it shares a {part} with another head (SharedHead), and "
            "a copy would not follow that; copy a head that shares nothing"
        )


class FrozenModule(nn.Module):
    """A fixed network (VGG16): always in eval mode, never trained, NOT saved.

    It moves with the model to other devices and dtypes.
    """

    net: nn.Module

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        # Bypasses nn.Module's registration, so the weights are not in our state.
        object.__setattr__(self, "net", net.eval().requires_grad_(False))

    def forward(self, *inputs: object) -> object:
        """Call the fixed network."""
        return _call(self.net, inputs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenModule:
        # torch calls this for .to(), .cuda() and .float(). It does not see `net`: see __init__.
        self.net._apply(fn)
        return super()._apply(fn, recurse)


@contextmanager
def frozen_running_statistics(net: nn.Module) -> Iterator[None]:
    """Do not update the running statistics of BatchNorm layers.

    In training mode the layers still normalize by the batch.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = not norm.training
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def gather(x: Tensor) -> Tensor:
    """Join the batches of all ranks: (B, ...) -> (world * B, ...). Differentiable.

    A coupled loss needs the joint batch. On one process, return `x` itself.
    """
    if world_size() == 1:
        return x
    # Unlike dist.all_gather, it passes gradients back to all ranks.
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over ranks, in place. On one process, return `x` itself."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def broadcast_buffers(net: nn.Module) -> None:
    """Copy rank 0's buffers to all ranks, in one message per dtype.

    BatchNorm's running statistics differ between ranks, since each updates them from its own
    batches. Evaluation uses those of rank 0. Does nothing in a single process.
    """
    if world_size() == 1:
        return
    for same in by_dtype(net.buffers()):
        message = flat(same)
        dist.broadcast(message, 0)
        copy_back(same, message)


def by_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Return the tensors in one list for each dtype, in order."""
    lists: dict[torch.dtype, list[Tensor]] = {}
    for t in tensors:
        lists.setdefault(t.dtype, []).append(t)
    return list(lists.values())


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return all tensors in one vector. Their dtype must be the same."""
    return torch.cat([t.flatten() for t in tensors])


def copy_back(tensors: Sequence[Tensor], vector: Tensor) -> None:
    """Copy a vector of `flat` back into its tensors, in place."""
    pieces = vector.split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(pieces, tensors)])


def split(x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Split a tensor along its first dimension into parts of these sizes, as `Tensor.split`.

    The gradient keeps the memory format of `x`. That of `Tensor.split` is always contiguous, and
    makes the whole backward behind it slower if `x` is channels_last.
    """
    parts: tuple[Tensor, ...] = _Split.apply(x, list(sizes))
    return parts


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.like = torch.empty_like(x, device="meta")  # its strides; `x` itself may be freed
        ctx.sizes, ctx.device = sizes, x.device
        return x.split(sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None]:
        whole = torch.empty_like(ctx.like, device=ctx.device)
        for part, gradient in zip(whole.split(ctx.sizes), gradients):
            if gradient is None:
                part.zero_()
            else:
                part.copy_(gradient)
        return whole, None


def copy_all(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, in place. Raises RuntimeError if a shape differs."""
    if targets or sources:
        torch._foreach_copy_(targets, sources)


@contextmanager
def single_rank() -> Iterator[None]:
    """Run code on one rank alone, such as a callback.

    Collectives inside would wait forever for the other ranks, so `world_size` is 1.
    """
    global _single_rank
    before = _single_rank
    _single_rank = True
    try:
        yield
    finally:
        _single_rank = before


def world_size() -> int:
    """Return the number of ranks that compute together.

    It is 1 without data parallelism, and inside `single_rank`.
    """
    distributed = dist.is_available() and dist.is_initialized()
    if _single_rank or not distributed:
        return 1
    return dist.get_world_size()
