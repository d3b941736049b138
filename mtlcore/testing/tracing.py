"""Trace a function into ONE graph with dynamo, without a compiler: a second instead of a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def trace(call: Callable[P, T], *inputs: P.args, **options: P.kwargs) -> T:
    """Return the output of the traced function. Dynamo raises its error if the graph breaks."""
    torch._dynamo.reset()
    try:
        traced = torch.compile(call, backend="eager", fullgraph=True)
        return traced(*inputs, **options)
    finally:
        torch._dynamo.reset()
