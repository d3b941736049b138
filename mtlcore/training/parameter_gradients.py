"""The gradients of a list of parameters: set, add, and sum over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..networks import copy_back, flat, sum_over_ranks, world_size


def views_of(row: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """(P,) -> views of it in the shapes of the parameters."""
    pieces = row.split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters)]


def set_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Set `.grad`. None: the optimizer leaves that parameter unchanged."""
    for p, g in zip(parameters, gradients):
        p.grad = g


def add_gradients(one: Tensor | None, two: Tensor | None) -> Tensor | None:
    """The sum of two gradients, where None means that no loss reached the parameter."""
    if one is None:
        return two
    if two is None:
        return one
    return one + two


def sum_losses_and_gradients(values: Tensor, parameters: Sequence[Tensor]) -> None:
    """Sum losses (K,) and gradients over ranks, in place, in one message.

    A parameter without gradient counts as 0 in the message and stays without one, so that weight
    decay does not shrink it. All ranks agree on these parameters: a step has the same heads and
    names everywhere.
    """
    if world_size() == 1:
        return
    tensors = [values]
    for p in parameters:
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        tensors.append(gradient)
    copy_back(tensors, sum_over_ranks(flat(tensors)))
