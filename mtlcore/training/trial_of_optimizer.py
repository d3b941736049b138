"""Try the optimizer of a run on toy parameters, before any image is read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..config.write import component_table
from ..contracts import Optimizer, ParameterGroup
from ..errors import MtlError

SHAPES = ((4, 3, 3, 3), (6, 4), (6,))
"""A convolution, a matrix and a vector."""

STEPS = 2  # the first step of many optimizers does not use their momentum


def try_optimizer(optimizer: Optimizer) -> torch.optim.Optimizer:
    """Build the optimizer, and take steps on toy parameters. -> the optimizer after them.

    Raises MtlError if a package is missing, or if a setting does not work.
    """
    with torch.random.fork_rng(devices=[]):
        parameters = toy_parameters(SHAPES)
        groups: list[ParameterGroup] = [
            {"params": parameters[:-1], "weight_decay": optimizer.weight_decay},
            {"params": parameters[-1:], "weight_decay": 0.0},
        ]
        try:
            built = optimizer.build(groups)
            for _ in range(STEPS):
                built.step()
            if not all(p.isfinite().all() for p in parameters):
                raise ValueError(f"a parameter is not finite after {STEPS} steps")
        except MtlError:
            raise
        except Exception as error:
            settings = component_table(optimizer)
            shown = ", ".join(f"{key} = {value!r}" for key, value in settings.items())
            raise MtlError(
                f"[optimizer] {shown}: a trial step failed: {type(error).__name__}: {error}"
            ) from error
    return built


def toy_parameters(shapes: Sequence[Sequence[int]]) -> list[nn.Parameter]:
    """Return parameters of these shapes, each with a gradient."""
    parameters: list[nn.Parameter] = []
    for shape in shapes:
        size = torch.Size(shape)
        parameter = nn.Parameter(torch.linspace(-1, 1, size.numel()).view(size))
        parameter.grad = torch.linspace(-0.5, 1, size.numel()).view(size)
        parameters.append(parameter)
    return parameters


def states_per_parameter(optimizer: Optimizer) -> int:
    """Return how many values the optimizer keeps for each value of a parameter."""
    built = try_optimizer(optimizer)
    matrix = built.param_groups[0]["params"][1]
    # By number and not by tensor: Lookahead keeps its state in the optimizer that it wraps.
    kept = built.state_dict()["state"].get(1, {}).values()
    return sum(isinstance(x, torch.Tensor) and x.shape == matrix.shape for x in kept)
