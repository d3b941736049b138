"""A weighting on the harness: run as in training, on drawn losses and Gramians.

Several steps are played, whose gradients and losses change by task; learned parameters are trained by Adam. Two sets of task weights
are the same where they give the same STEP, sum_k task_weight_k g_k, whose length the Gramian tells: where gradients are linearly
dependent, other task weights can mean the same.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from attrs import evolve, frozen
from hypothesis import strategies as st
from torch import Tensor, nn

from ...contracts import StepLosses
from ...rng import KeyedRng
from ..generators import seeded
from ..kit import require
from ..subject import Subject

NAMES = ("alpha", "beta", "gamma", "sigma")
STEPS = 6
"""Steps that are played: three epochs of two."""


@frozen
class DrawnStep:
    """K tasks. rows: their gradients' directions, small integers, so that equal, opposed and vanishing ones come up, and
    Gramians of any rank. sizes: what each row is multiplied by. losses: positive. supervised: which are primary.
    """

    rows: tuple[tuple[int, ...], ...]
    sizes: tuple[float, ...]
    losses: tuple[float, ...]
    supervised: tuple[bool, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return NAMES[: len(self.rows)]

    @property
    def gram(self) -> Tensor:
        """(K, K) fp32."""
        jacobian = torch.tensor(self.rows, dtype=torch.float32) * torch.tensor(self.sizes)[:, None]
        return jacobian @ jacobian.T

    @property
    def values(self) -> Tensor:
        """(K,) fp32."""
        return torch.tensor(self.losses)

    @property
    def primary(self) -> Tensor:
        """(K,) bool."""
        return torch.tensor(self.supervised)


@st.composite
def steps(draw: st.DrawFn) -> DrawnStep:
    """Drawn steps of two to four tasks."""
    k, width = draw(st.integers(2, 4)), draw(st.integers(1, 5))

    def each(what: st.SearchStrategy[object]) -> tuple[object, ...]:
        return tuple(draw(st.lists(what, min_size=k, max_size=k)))

    rows = each(st.lists(st.integers(-3, 3), min_size=width, max_size=width).map(tuple))
    sizes, losses = each(st.sampled_from([0.01, 1.0, 100.0])), each(st.floats(1 / 64, 10, width=32))
    return DrawnStep(rows, sizes, losses, each(st.booleans()))  # type: ignore[arg-type]


def scaled(step: DrawnStep, which: int, by: float) -> DrawnStep:
    """The loss of one task, and so its gradient, times `by`."""
    sizes, losses = (
        tuple(x * by if k == which else x for k, x in enumerate(xs))
        for xs in (step.sizes, step.losses)
    )
    return evolve(step, sizes=sizes, losses=losses)


class Player:
    """A built strategy, and what trains its parameters."""

    def __init__(self, loss_weighting: nn.Module) -> None:
        self.loss_weighting, parameters = loss_weighting, list(loss_weighting.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=0.05) if parameters else None

    @property
    def steps(self) -> int:
        """A strategy without memory needs one step to be known."""
        return STEPS if self.loss_weighting.state_dict() else 1

    def objective(self, losses: StepLosses) -> Tensor:
        objective: Tensor = self.loss_weighting(losses)
        return objective

    def task_weights(self, losses: StepLosses) -> Tensor:
        """(K,) d objective / d values; learned parameters make a step."""
        self.objective(losses).backward()
        if self.optimizer:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (
            losses.values.new_zeros(len(losses.names))
            if losses.values.grad is None
            else losses.values.grad
        )

    def play(
        self,
        step: DrawnStep,
        when: range | None = None,
        *,
        scale: float = 1.0,
        turned: bool = False,
    ) -> Tensor:
        """(T, K) task weights of these steps, in the order of `step.names`. scale: of all losses. turned: shown in reverse order."""
        when = range(self.steps) if when is None else when
        shown = (losses_at(i, step, scale=scale, turned=turned) for i in when)
        found = torch.stack([self.task_weights(losses) for losses in shown])
        return found.flip(1) if turned else found

    def saved(self) -> bytes:
        file = io.BytesIO()
        torch.save(
            [self.loss_weighting.state_dict(), self.optimizer and self.optimizer.state_dict()], file
        )
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        loss_weighting, optimizer = torch.load(io.BytesIO(saved), weights_only=True)
        self.loss_weighting.load_state_dict(loss_weighting)
        if self.optimizer:
            self.optimizer.load_state_dict(optimizer)


class WeightingSubject(Subject):
    """A weighting on the harness."""

    def player(self, names: Sequence[str]) -> Player:
        """A fresh strategy for these tasks."""
        with seeded(0):
            return Player(self.component.build(names))

    @property
    def looks_at_gradients(self) -> bool:
        return str(self.component.at) != "losses"


def losses_at(
    i: int, step: DrawnStep, *, scale: float = 1.0, turned: bool = False, rows: slice = slice(None)
) -> StepLosses:
    """The losses of the i-th step. Each task's gradient and loss change in a way of its own, which hangs on its NAME alone.

    scale: of all losses, and so of all gradients. turned: the tasks in reverse order. rows: the tasks that are present.
    """
    order = torch.arange(len(step.names))[rows]
    order = order.flip(0) if turned else order
    names = tuple(step.names[k] for k in order.tolist())
    size = torch.tensor([1 + 0.2 * ((sum(map(ord, name)) + 3 * i) % 5) for name in names])
    gram = step.gram[order][:, order] * torch.outer(size, size) * scale**2
    values = (step.values[order] * size * scale).requires_grad_()
    return StepLosses(
        names,
        values,
        gram,
        step.primary[order],
        0.1 + 0.1 * i,
        i // 2,
        KeyedRng((7, i))("weighting"),
    )


def require_same_steps(
    left: Tensor, right: Tensor, step: DrawnStep, tolerance: float = 1e-3
) -> None:
    """(T, K) task weights twice: |sum_k (left - right)_k g_k| is small beside the longest of the terms."""
    for t, difference in enumerate((left - right).double()):
        gram = losses_at(t, step).gram
        assert gram is not None
        g = gram.double()
        length = (difference @ g @ difference).clamp_min(0).sqrt()
        size = ((left[t].double().abs() + right[t].double().abs()) * g.diagonal().sqrt()).max()
        require(
            bool(length <= tolerance * size + 1e-12),
            f"step {t}: task weights {left[t].tolist()} and {right[t].tolist()}",
        )
