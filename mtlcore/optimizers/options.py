"""Check the options of an optimizer against the arguments of its class."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import torch

from ..errors import MtlError, nearest

SET_ELSEWHERE = ("self", "params", "lr", "weight_decay")
# torch's variants of a step: the core chooses them. A step with `capturable` or `differentiable`
# computes the same.
CHOSEN_BY_CORE = ("fused", "capturable", "differentiable")


def arguments_of(cls: type[torch.optim.Optimizer]) -> dict[str, inspect.Parameter]:
    """Return the arguments of an optimizer's constructor that a configuration can set."""
    parameters = inspect.signature(cls.__init__).parameters
    hidden = (*SET_ELSEWHERE, *CHOSEN_BY_CORE)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in hidden and parameter.kind in named
    }


def require_options(where: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise MtlError for an option that the optimizer does not have."""
    problems: list[str] = []
    for name in options:
        if name in SET_ELSEWHERE:
            problems.append(f"{where}: options.{name}: set optimizer.{name} instead")
        elif name not in known:
            problems.append(f"{where}: options.{name}: unknown option; {nearest(name, known)}")
    if problems:
        raise MtlError("\n".join(problems))


def require_no_closure(where: str, cls: type[torch.optim.Optimizer]) -> None:
    """Raise MtlError if a step of the optimizer needs to evaluate the losses again."""
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise MtlError(
            f"{where} evaluates the losses several times in a step (a closure), which a run can't "
            'do: set optimizer.name = "adamw", or another one'
        )
