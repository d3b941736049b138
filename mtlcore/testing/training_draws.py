"""What a head draws from the global generators in train mode, dropout apart: the one thing that may draw there.

Layers of dropout are put into eval mode, and the functions of torch.nn.functional that drop give back what they get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from .generators import touched

DROPPING = (_DropoutNd, nn.MultiheadAttention, nn.RNNBase)  # layers with a dropout of their own


def drawn_in_training(head: nn.Module, call: Callable[[], Any]) -> list[str]:
    """Which global generators `call` moves with `head` in train mode and its dropout at rest. Leaves the head so."""
    head.train()
    for layer in head.modules():
        if isinstance(layer, DROPPING):
            layer.eval()
    with NoDropout():
        return touched(call)


class NoDropout(TorchFunctionMode):
    """Functions of dropout, `torch.nn.functional.dropout` among them, give back what they get."""

    def __torch_function__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else kwargs["input"]
        if kwargs.get("dropout_p"):  # attention
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)
