"""Does a function trace into ONE graph? By dynamo alone, without a compiler: a second instead of a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def trace(call: Callable[..., Any], *inputs: Any) -> Any:
    """What the traced function gives. Raises what dynamo raises where the graph breaks."""
    torch._dynamo.reset()
    try:
        return torch.compile(call, backend="eager", fullgraph=True)(*inputs)
    finally:
        torch._dynamo.reset()
