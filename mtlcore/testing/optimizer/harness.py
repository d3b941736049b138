"""The harness of an optimizer: a few parameters in two groups, and the gradient of a toy loss.

The loss is the squared distance of each parameter to a target, so its gradient is known, and every
sensible optimizer lowers it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...contracts import Optimizer, ParameterGroup
from ...training.optimizer_state import check_optimizer_state
from ..requirements import require
from ..subject import Subject

SHAPES: Mapping[str, tuple[int, ...]] = {
    "a convolution": (4, 3, 3, 3),
    "a matrix": (6, 4),
    "a vector": (6,),
}
STEPS = 8  # Lookahead moves its slow weights in the sixth step
NAN = float("nan")


class Player:
    """A built optimizer and its parameters.

    decay: weight decay of the first group, which has no vectors.
    """

    def __init__(self, component: Optimizer, decay: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(shape, generator=generator) for shape in SHAPES.values()]
        self.parameters = [nn.Parameter(values) for values in drawn]
        self.targets = [torch.randn(x.shape, generator=generator) for x in drawn]
        self.groups: list[ParameterGroup] = [
            {"params": self.parameters[:2], "weight_decay": decay},
            {"params": self.parameters[2:], "weight_decay": 0.0},
        ]
        self.build = component.build
        self.optimizer = self.build(self.groups)

    def loss(self) -> float:
        """The mean of all squared distances."""
        errors = [(p - t).detach().flatten() for p, t in zip(self.parameters, self.targets)]
        return float(torch.cat(errors).square().mean())

    def set_gradients(self, factor: float = 1.0) -> None:
        """Set the gradient of the loss, times a factor."""
        for p, target in zip(self.parameters, self.targets):
            p.grad = (p.detach() - target) * factor

    def step(self, steps: int = 1) -> None:
        """Take steps with the gradient of the loss."""
        for _ in range(steps):
            self.set_gradients()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def values(self) -> list[Tensor]:
        """A copy of all parameters."""
        return [p.detach().clone() for p in self.parameters]

    def saved(self) -> bytes:
        """The state as a checkpoint stores it."""
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        """Load a state as a resumed run does. Raises MisfitError if a run would refuse it."""
        state: dict[str, Any] = torch.load(io.BytesIO(saved), weights_only=True)
        check_optimizer_state("the state", state, self.optimizer, self.build)
        self.optimizer.load_state_dict(state)


class OptimizerSubject(Subject[Optimizer]):
    """An optimizer in the harness."""

    def player(self, decay: float = 0.0) -> Player:
        """A new optimizer, always of the same parameters."""
        return Player(self.component, decay)


def require_equal(found: list[Tensor], expected: list[Tensor], what: str) -> None:
    """Require equal parameters, bit for bit. what: of the parameters, for the message."""
    for name, one, other in zip(SHAPES, found, expected):
        require(torch.equal(one, other), f"{what}: {name} differs")


def leaves(state: object) -> Iterator[object]:
    """Yield the tensors and values of a state in their order."""
    if isinstance(state, Mapping):
        for key in state:
            yield from leaves(state[key])
    elif isinstance(state, list | tuple):
        for value in state:
            yield from leaves(value)
    else:
        yield state


def same_states(one: object, other: object) -> bool:
    """Whether two states are equal, bit for bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    for a, b in pairs:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if not torch.equal(a, b):
                return False
        elif a != b:
            return False
    return True
