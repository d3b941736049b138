"""Checks of speed: a step never waits for the host, and the head can be compiled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ... import rng as keyed_draws
from ...rng import KeyedRng
from ..kit import Group
from ..requirements import Skip, require
from ..subject import Drawn
from ..tracing import trace
from ..trees import tensors
from .harness import LABEL, PretextSubject, features_of, raw
from .loss import STEADY

# Operations whose result, or its shape, depends on values: the host waits for them.
OPERATIONS = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "is_nonzero",
    "equal",
    "masked_select",
    "unique_dim",
    "_unique2",
}
INDEXING = {"index", "index_put", "index_put_"}

# Methods that read values. On a CPU some of them reach no operation.
METHODS = {
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__array__",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
}

SPEED_CHECKS = Group()


@SPEED_CHECKS.check(
    "speed",
    why="the GPU idles until the host has read a value: about 10 % of a step for each.",
    mend="Use torch.where and masked_fill instead of `if` and x[mask], rng.integer for a host "
    "number, and tensors for counts.",
    needs=STEADY,
    capability="stays_on_device",
)
def reads_nothing_on_the_host(subject: PretextSubject) -> None:
    """views, forward and loss use no item(), tolist(), `if` on a tensor, x[mask], nonzero()."""
    drawn, model = Drawn(4, 48, 0), subject.fresh(48)
    augmented = subject.augmented(raw(drawn), drawn.size, drawn.keyed_rng())
    head: Any = model.heads[LABEL]

    reads = HostReads()
    with reads.watched():
        views, target = subject.component.views(augmented, drawn.rng())
    features = features_of(model, views)  # not the pretext's code
    with reads.watched():
        head.loss(head(*features), target)
    require(not reads.found, f"the host reads: {', '.join(dict.fromkeys(reads.found))}")


@SPEED_CHECKS.check(
    "speed",
    why="the host would wait for the GPU at every step.",
    mend="Create constants on the device, and use .to(device, non_blocking=True). No item(), no "
    "copies to the CPU.",
    needs="reads_nothing_on_the_host",
    capability="stays_on_device",
)
def never_waits_for_the_gpu(subject: PretextSubject) -> None:
    """On a GPU, views, forward and loss run with torch.cuda.set_sync_debug_mode("error")."""
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device")
    device, drawn = torch.device("cuda"), Drawn(4, 48, 0)
    model, keyed_rng = subject.fresh(48).to(device), KeyedRng((drawn.seed,), device)
    augmented = subject.augmented(raw(drawn).to(device), drawn.size, keyed_rng)
    head: Any = model.heads[LABEL]

    def step() -> None:
        views, target = subject.component.views(augmented, keyed_rng(LABEL))
        features = features_of(model, views)
        head.loss(head(*features), target)

    step()  # the first time, augmentations are drawn and libraries create their handles
    with _sync_is_an_error():
        step()


@SPEED_CHECKS.check(
    "speed",
    why="a graph break costs what torch.compile gains.",
    mend="Use no prints, item() or data-dependent branches in forward and loss. Or declare it: "
    "lacks = {'compiles': why}.",
    needs="reads_nothing_on_the_host",
    capability="compiles",
)
def traces_as_one_graph(subject: PretextSubject) -> None:
    """torch.compile(fullgraph=True) traces the head's forward and loss."""
    model, batch = subject.fresh(), subject.batch(Drawn(4, 32, 0))
    head: Any = model.heads[LABEL]
    features = features_of(model, batch.views)

    def step(features: Any, target: Any) -> object:
        return head.loss(head(*features), target)

    loss = trace(step, features, batch.target)
    require(isinstance(loss, Tensor), f"the loss is a {type(loss).__name__}")


# ---------------------------------------------------------------------------------------- helpers


class HostReads:
    """The operations of a block that read a tensor's values on the host; works without a GPU.

    Two do not count: the core's own draws of a host number, and the range check of `one_hot` with a
    known number of classes, which happens on a CPU only.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.excused = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        with _Methods(self), _Operations(self):
            yield

    def add(self, name: str) -> None:
        if not self.excused and not _in_keyed_draws():
            self.found.append(name)


class _Methods(TorchFunctionMode):
    """Records methods that read."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        options = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in METHODS:
            self.reads.add(f"{name}()")

        counts_classes = len(args) > 1 or options.get("num_classes", -1) > 0
        excused = func is F.one_hot and counts_classes
        self.reads.excused += excused
        try:
            return func(*args, **options)
        finally:
            self.reads.excused -= excused


class _Operations(TorchDispatchMode):
    """Records operations that read."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        if name in OPERATIONS:
            self.reads.add(name)
        if name in INDEXING and _reads_a_mask(name, args):
            self.reads.add("x[mask]")
        return func(*args, **(kwargs or {}))


def _reads_a_mask(name: str, args: Sequence[Any]) -> bool:
    """True if a mask is an index. Writing ONE value there is a masked_fill, which reads nothing."""
    has_mask = any(index.dtype in (torch.bool, torch.uint8) for index in tensors(args[1]))
    writes_one_value = name != "index" and args[2].numel() == 1
    return has_mask and not writes_one_value


def _in_keyed_draws() -> bool:
    """True if the core's `rng` module is among the callers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == keyed_draws.__file__:
            return True
        frame = frame.f_back
    return False


@contextmanager
def _sync_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
