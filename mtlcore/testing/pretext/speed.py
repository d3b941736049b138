"""Checks of speed: nothing waits for the host, and the head can be compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ... import rng as own_draws
from ...rng import KeyedRng
from ..kit import Group, Skip, require
from ..subject import Drawn
from ..tracing import trace
from .harness import LABEL, PretextSubject, raw
from .loss import STEADY

READS = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "is_nonzero",
    "equal",
    "masked_select",
    "unique_dim",
    "_unique2",
}
CALLS = {
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
    why="each value that the host reads makes a GPU run dry until it has arrived: some 10 % of a step, each.",
    mend="torch.where and masked_fill instead of `if` and x[mask]; rng.integer for a host number; keep counts as tensors.",
    needs=STEADY,
    capability="stays_on_device",
)
def reads_nothing_back(subject: PretextSubject) -> None:
    """views, forward and loss read no value of a tensor on the host: no item(), tolist(), `if`, x[mask], nonzero()."""
    reads = HostReads()
    drawn, model = Drawn(4, 48, 0), subject.fresh(48)
    augmented = subject.augmented(raw(drawn), drawn.size, drawn.keyed_rng())
    with reads.watched():
        views, target = subject.component.views(augmented, drawn.rng())
    features = [model.encoder(v.images) for v in views]
    head: Any = model.heads[LABEL]
    with reads.watched():
        head.loss(head(*features), target)
    require(not reads.found, f"the host reads: {', '.join(dict.fromkeys(reads.found))}")


@SPEED_CHECKS.check(
    "speed",
    why="the host would wait for the GPU at every step.",
    mend="create constants on the device; .to(device, non_blocking=True); no item(), no copies to the CPU.",
    needs="reads_nothing_back",
    capability="stays_on_device",
)
def never_waits_for_the_gpu(subject: PretextSubject) -> None:
    """On a GPU, views, forward and loss run with torch.cuda.set_sync_debug_mode("error")."""
    if not torch.cuda.is_available():
        raise Skip("there is no CUDA device here")
    device, drawn = torch.device("cuda"), Drawn(4, 48, 0)
    model, keyed_rng = subject.fresh(48).to(device), KeyedRng((drawn.seed,), device)
    augmented = subject.augmented(raw(drawn).to(device), drawn.size, keyed_rng)
    head: Any = model.heads[LABEL]

    def step() -> None:
        views, target = subject.component.views(augmented, keyed_rng(LABEL))
        head.loss(head(*(model.encoder(v.images) for v in views)), target)

    step()  # the first time, augmentations are drawn and libraries make their handles
    with _sync_is_an_error():
        step()


@SPEED_CHECKS.check(
    "speed",
    why="a graph break gives back what torch.compile gains.",
    mend="no prints, item() or data-dependent branches in forward and loss; or declare it: lacks = {'compiles': why}.",
    needs="reads_nothing_back",
    capability="compiles",
)
def traces_in_one_graph(subject: PretextSubject) -> None:
    """torch.compile(fullgraph=True) traces the head's forward and loss."""
    model, asked = subject.fresh(), subject.ask(Drawn(4, 32, 0))
    head: Any = model.heads[LABEL]
    features = [model.encoder(v.images) for v in asked.views]
    loss = trace(
        lambda features, target: head.loss(head(*features), target), features, asked.target
    )
    require(isinstance(loss, Tensor), f"it gives a {type(loss).__name__}")


class HostReads:
    """Which operations of a stretch of code read a tensor's values on the host; works without a GPU.

    Our own draws of one host number, and what `one_hot` looks at on a CPU alone, are no reads.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.excused = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        with _Calls(self), _Operations(self):
            yield

    def add(self, name: str) -> None:
        if not self.excused and not _in_own_draws():
            self.found.append(name)


class _Calls(TorchFunctionMode):
    """Methods that read, by name; some never reach an operation on a CPU."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in CALLS:
            self.reads.add(f"{name}()")
        excused = func is F.one_hot and (len(args) > 1 or (kwargs or {}).get("num_classes", -1) > 0)
        self.reads.excused += excused
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.reads.excused -= excused


class _Operations(TorchDispatchMode):
    """Operations whose result, or its shape, depends on values."""

    def __init__(self, reads: HostReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.reads.add(name)
        if name in ("index", "index_put", "index_put_") and _masked(name, args):
            self.reads.add("x[mask]")
        return func(*args, **(kwargs or {}))


def _masked(name: str, args: Any) -> bool:
    """Is a mask among the indices? One value for all of a mask's places is a masked_fill, which reads nothing."""
    if not any(
        isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in tree_leaves(args[1])
    ):
        return False
    return name == "index" or args[2].numel() != 1


def _in_own_draws() -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == own_draws.__file__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


@contextmanager
def _sync_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
