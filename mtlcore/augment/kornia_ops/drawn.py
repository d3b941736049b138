"""Operations with their parameters, drawn but not yet applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from attrs import frozen
from torch import nn

from ...geometry import Size
from .catalog import KorniaOp
from .draws import DrawsFrom
from .movement import Params


@frozen(eq=False)
class Drawn:
    """One plain operation of kornia, and its parameters, which are on the CPU."""

    module: Any
    params: Params


def draw(
    op: KorniaOp, samples: int, frame: Size, size: Size, generator: torch.Generator
) -> list[Drawn]:
    """Draw the parameters of one operation. A policy becomes the operations that it chose.

    frame: (h, w) of the images that it receives. size: (h, w) of views.
    """
    module: Any = op.module(size)
    with torch.no_grad(), DrawsFrom(generator):
        found = module.forward_parameters(torch.Size((samples, 3, *frame)))
    if isinstance(found, dict):
        return [Drawn(module, found)]
    return list(_chosen(module, found))


def _chosen(policy: nn.Module, items: Any) -> Iterator[Drawn]:
    """Yield the operations that a policy chose. items: kornia's `ParamItem`s, nested."""
    for item in items:
        child: Any = policy.get_submodule(item.name)
        if isinstance(item.data, dict):
            yield Drawn(child.op, item.data)
        else:
            yield from _chosen(child, item.data)
