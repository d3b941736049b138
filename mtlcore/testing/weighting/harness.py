"""The harness of a loss weighting: steps as in training, with drawn losses and Gramians.

Several steps are run, whose gradients and losses change differently for each task. Adam trains
learned parameters.

Two sets of task weights count as equal if they give the same STEP, sum_k task_weight_k g_k. If
gradients are linearly dependent, different weights can give the same step. The Gramian gives the
length of the difference.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from ...contracts import LossWeighting, StepLosses
from ...rng import KeyedRng
from ..generators import seeded
from ..requirements import require
from ..subject import Subject

if TYPE_CHECKING:
    from hypothesis import strategies as st

NAMES = ("alpha", "beta", "gamma", "sigma")
STEPS = 6
"""The number of steps: three epochs of two."""


@frozen
class DrawnStep:
    """The gradients and losses of K tasks.

    rows: gradient directions in small integers. Equal, opposite and zero gradients then occur, and
    Gramians of any rank.
    sizes: factors of the rows.
    losses: positive.
    supervised: which tasks are primary.
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


def steps() -> st.SearchStrategy[DrawnStep]:
    """The strategy of steps with two to four tasks."""
    from hypothesis import strategies as st

    @st.composite
    def drawn_steps(draw: st.DrawFn) -> DrawnStep:
        k = draw(st.integers(2, 4))
        width = draw(st.integers(1, 5))
        row = st.lists(st.integers(-3, 3), min_size=width, max_size=width).map(tuple)
        size = st.sampled_from([0.01, 1.0, 100.0])
        loss = st.floats(1 / 64, 10, width=32)
        return DrawnStep(
            rows=tuple(draw(st.lists(row, min_size=k, max_size=k))),
            sizes=tuple(draw(st.lists(size, min_size=k, max_size=k))),
            losses=tuple(draw(st.lists(loss, min_size=k, max_size=k))),
            supervised=tuple(draw(st.lists(st.booleans(), min_size=k, max_size=k))),
        )

    return drawn_steps()


def scaled(step: DrawnStep, which: int, by: float) -> DrawnStep:
    """Multiply the loss of one task, and so its gradient, by a factor."""

    def times(values: tuple[float, ...]) -> tuple[float, ...]:
        return (*values[:which], values[which] * by, *values[which + 1 :])

    return evolve(step, sizes=times(step.sizes), losses=times(step.losses))


class Player:
    """A built weighting, and the optimizer of its parameters.

    reads_gradients: False if the core measures no gradients for it, and passes no Gramian.
    """

    def __init__(self, loss_weighting: nn.Module, reads_gradients: bool) -> None:
        self.loss_weighting = loss_weighting
        self.reads_gradients = reads_gradients
        parameters = list(loss_weighting.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=0.05) if parameters else None

    @property
    def steps(self) -> int:
        """The number of steps to run: one is enough without a state."""
        return STEPS if self.loss_weighting.state_dict() else 1

    def objective(self, losses: StepLosses) -> Tensor:
        if not self.reads_gradients:
            losses = evolve(losses, gram=None)
        objective: Tensor = self.loss_weighting(losses)
        return objective

    def task_weights(self, losses: StepLosses) -> Tensor:
        """(K,) d objective / d values. Learned parameters make a step."""
        self.objective(losses).backward()
        if self.optimizer:
            self.optimizer.step()
            self.optimizer.zero_grad()
        if losses.values.grad is None:
            return losses.values.new_zeros(len(losses.names))
        return losses.values.grad

    def play(
        self,
        step: DrawnStep,
        when: range | None = None,
        *,
        scale: float = 1.0,
        reverse: bool = False,
    ) -> Tensor:
        """(T, K) task weights of these steps, in the order of `step.names`.

        scale: of all losses. reverse: the weighting sees the tasks in reverse order.
        """
        weights = []
        for i in range(self.steps) if when is None else when:
            weights.append(self.task_weights(losses_at(i, step, scale=scale, reverse=reverse)))
        found = torch.stack(weights)
        return found.flip(1) if reverse else found

    def saved(self) -> bytes:
        file = io.BytesIO()
        optimizer = self.optimizer and self.optimizer.state_dict()
        torch.save([self.loss_weighting.state_dict(), optimizer], file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        loss_weighting, optimizer = torch.load(io.BytesIO(saved), weights_only=True)
        self.loss_weighting.load_state_dict(loss_weighting)
        if self.optimizer:
            self.optimizer.load_state_dict(optimizer)


class WeightingSubject(Subject[LossWeighting]):
    """A weighting in the harness."""

    def player(self, names: Sequence[str]) -> Player:
        """A new weighting of these tasks."""
        with seeded(0):
            return Player(self.component.build(names), self.reads_gradients)

    @property
    def reads_gradients(self) -> bool:
        return str(self.component.at) != "losses"


def losses_at(
    i: int, step: DrawnStep, *, scale: float = 1.0, reverse: bool = False, rows: slice = slice(None)
) -> StepLosses:
    """The losses of the i-th step.

    Each task's gradient and loss change over the steps. The change depends on the task's NAME only.

    scale: of all losses, and so of all gradients. reverse: the tasks in reverse order. rows: the
    tasks that are present.
    """
    order = torch.arange(len(step.names))[rows]
    if reverse:
        order = order.flip(0)
    names = tuple(step.names[k] for k in order.tolist())
    size = torch.tensor([1 + 0.2 * ((sum(map(ord, name)) + 3 * i) % 5) for name in names])
    return StepLosses(
        names=names,
        values=(step.values[order] * size * scale).requires_grad_(),
        gram=step.gram[order][:, order] * torch.outer(size, size) * scale**2,
        primary=step.primary[order],
        progress=0.1 + 0.1 * i,
        epoch=i // 2,
        rng=KeyedRng((7, i))("weighting"),
    )


def gram_at(i: int, step: DrawnStep) -> Tensor:
    """(K, K) float64: the Gramian of the i-th step."""
    gram = losses_at(i, step).gram
    assert gram is not None
    return gram.double()


def require_same_steps(
    left: Tensor, right: Tensor, step: DrawnStep, tolerance: float = 1e-3
) -> None:
    """(T, K) task weights twice: require the same steps, relative to their longest term."""
    for t, difference in enumerate((left - right).double()):
        gram = gram_at(t, step)
        length = (difference @ gram @ difference).clamp_min(0).sqrt()
        terms = (left[t].double().abs() + right[t].double().abs()) * gram.diagonal().sqrt()
        same = bool(length <= tolerance * terms.max() + 1e-12)
        require(same, f"step {t}: task weights {left[t].tolist()} and {right[t].tolist()}")
