"""What a loss weighting should do, as plain functions: each takes (strategy, names, gram, values, primary) and asserts.

names: K labels. gram: (K, K) fp32, positive semidefinite, of any rank. values: (K,) fp32, positive. primary: (K,) bool.
A strategy runs as in training: several steps, whose gradients and losses change by task, its learned parameters trained by Adam.
Two sets of factors are the same where they give the same STEP, sum_k factor_k g_k, whose length the Gramian tells: where
gradients are linearly dependent, other factors can mean the same.

PROPERTIES lists them by name. A strategy declares an exception in `lacks`: {"units": "why"}.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mtlcore import LossWeighting, StepLosses
from mtlcore.rng import Streams
from mtlcore.weighting import Budget, CosineGate, Equal, PrimaryProjection, Schedule, TorchJD, Uncertainty
from mtlcore.weighting.torchjd_methods import METHODS

Names = tuple[str, ...]
Property = Callable[[LossWeighting, Names, Tensor, Tensor, Tensor], None]

STEPS = 6  # three epochs of two steps
STRATEGIES: dict[str, LossWeighting] = {
    "equal": Equal(),
    "uncertainty": Uncertainty(),
    "schedule": Schedule(pretexts=((0.0, 1.0), (1.0, 0.0))),
    "cosine_gate": CosineGate(),
    "cosine_gate (weighted)": CosineGate(mode="weighted"),
    "primary_projection": PrimaryProjection(),
    "budget": Budget(),
    **{f"torchjd:{method}": TorchJD(method) for method in METHODS},
}

# ---------------------------------------------------------------------------------------------------- running a strategy


class Player:
    """A built strategy and what trains its parameters."""

    def __init__(self, strategy: LossWeighting, names: Sequence[str]) -> None:
        torch.manual_seed(0)
        self.weigher: nn.Module = strategy.build(names)
        parameters = list(self.weigher.parameters())
        self.optimizer = torch.optim.Adam(parameters, lr=0.05) if parameters else None

    @property
    def steps(self) -> int:
        """A strategy without memory is soon known."""
        return STEPS if self.weigher.state_dict() else 2

    def factors(self, losses: StepLosses) -> Tensor:
        """(K,) d objective / d values; learned parameters make a step."""
        objective = self.weigher(losses)
        assert objective.shape == (), f"the objective has the shape {tuple(objective.shape)}, expected ()"
        objective.backward()
        assert losses.values.grad is not None, "the objective does not depend on the losses"
        if self.optimizer:
            self.optimizer.step()
            self.optimizer.zero_grad()
        return losses.values.grad

    def play(self, names: Names, gram: Tensor, values: Tensor, primary: Tensor, steps: range | None = None) -> Tensor:
        """(T, K) factors of these steps."""
        steps = range(self.steps) if steps is None else steps
        return torch.stack([self.factors(losses_at(i, names, gram, values, primary)) for i in steps])

    def saved(self) -> bytes:
        file = io.BytesIO()
        torch.save([self.weigher.state_dict(), self.optimizer and self.optimizer.state_dict()], file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        weigher, optimizer = torch.load(io.BytesIO(saved), weights_only=True)
        self.weigher.load_state_dict(weigher)
        if self.optimizer:
            self.optimizer.load_state_dict(optimizer)


def losses_at(step: int, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> StepLosses:
    """The losses of one step. Each task's gradient and loss change in a way of its own, which hangs on its NAME alone."""
    size = torch.tensor([1 + 0.2 * ((sum(map(ord, name)) + 3 * step) % 5) for name in names])
    rng = Streams((7, step))("weighting")
    moved = (values * size).requires_grad_()
    return StepLosses(names, moved, gram * torch.outer(size, size), primary, 0.1 + 0.1 * step, step // 2, rng)


def gram_at(step: int, names: Names, gram: Tensor) -> Tensor:
    found = losses_at(step, names, gram, torch.ones(len(names)), torch.ones(len(names), dtype=torch.bool)).gram
    assert found is not None
    return found


def same_steps(left: Tensor, right: Tensor, names: Names, gram: Tensor, tolerance: float = 1e-3) -> None:
    """(T, K) factors twice: is |sum_k (left - right)_k g_k| small beside the longest of the terms?"""
    for t, difference in enumerate((left - right).double()):
        g = gram_at(t, names, gram).double()
        length = (difference @ g @ difference).clamp_min(0).sqrt()
        size = ((left[t].double().abs() + right[t].double().abs()) * g.diagonal().sqrt()).max()
        assert length <= tolerance * size + 1e-12, f"step {t}: {left[t].tolist()} and {right[t].tolist()}"


# ---------------------------------------------------------------------------------------------------- the properties


def finite(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """(K,) finite factors and a finite objective, for gradients and losses times 0, 1e-15 ... 1e15, of any rank."""
    for scale in (0.0, 1e-15, 1e-6, 1.0, 1e6, 1e15):
        factors = Player(strategy, names).play(names, gram * scale**2, values * scale, primary)
        assert factors.shape[1:] == (len(names),)
        assert factors.isfinite().all(), f"times {scale}: {factors.tolist()}"


def order(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """The order in which the tasks stand does not matter."""
    turned = torch.arange(len(names)).flip(0)
    others = tuple(names[i] for i in turned)
    here = Player(strategy, names).play(names, gram, values, primary)
    there = Player(strategy, others).play(others, gram[turned][:, turned], values[turned], primary[turned])
    same_steps(here, there[:, turned], names, gram, tolerance=0.03)  # Frank-Wolfe breaks ties by place


def protection(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """The step never goes against the primary gradient, the sum of the supervised tasks' weighted gradients."""
    for t, factors in enumerate(Player(strategy, names).play(names, gram, values, primary)):
        g, p = gram_at(t, names, gram).double(), primary.double()
        along, size = p @ g @ factors.double(), (p @ g.diagonal().sqrt()) * (factors * g.diagonal().sqrt()).abs().sum()
        assert along >= -1e-3 * size, f"<step, primary> = {along:.3g}, factors {factors.tolist()}"


def units(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """All losses (and so all gradients) times a constant: the same factors."""
    here = Player(strategy, names).play(names, gram, values, primary)
    for scale in (1e-2, 1e2):
        there = Player(strategy, names).play(names, gram * scale**2, values * scale, primary)
        same_steps(here, there, names, gram)


def absent(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """A task that is configured but in no step changes nothing: neither for the others, nor in what is learned."""
    here = Player(strategy, names).play(names, gram, values, primary)
    there = Player(strategy, ("elsewhere", *names)).play(names, gram, values, primary)
    assert torch.equal(here, there), f"{here.tolist()} and {there.tolist()}"


def returning(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """A task may be missing from some steps: its memory waits for it, and all factors stay finite."""
    player, some = Player(strategy, names), slice(1, None)
    for step in range(player.steps):
        keep = slice(None) if step % 2 else some
        losses = losses_at(step, names[keep], gram[keep, keep], values[keep], primary[keep])
        assert player.factors(losses).isfinite().all()


def resume(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """Saved and loaded in the middle = uninterrupted, bit for bit."""
    first, second = Player(strategy, names), Player(strategy, names)
    steps = range(first.steps)
    before, after = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    whole = Player(strategy, names).play(names, gram, values, primary, steps)
    first.play(names, gram, values, primary, before)
    second.load(first.saved())
    assert torch.equal(whole[len(before) :], second.play(names, gram, values, primary, after))


def plain_sum(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """Where nothing is to be balanced (orthonormal gradients, equal losses) factors are 1: the learning rate carries over."""
    losses = StepLosses(
        names,
        torch.ones(len(names)).requires_grad_(),
        torch.eye(len(names)),
        primary,
        0.0,
        0,
        Streams((7,))("weighting"),
    )
    factors = Player(strategy, names).factors(losses)
    torch.testing.assert_close(factors, torch.ones(len(names)), rtol=1e-3, atol=1e-3)


def accumulation(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """Micro-batches are exact: an `additive` strategy, which weighs them one by one, does not look at their values, and
    remembers nothing. (All others are shown the losses, or the gradients, of the whole step.)
    """
    if not strategy.additive:
        return
    player = Player(strategy, names)
    player.play(names, gram, values, primary)
    player.optimizer, half = None, torch.linspace(0.5, 1.5, len(names))
    before = player.saved()
    first, second = (player.factors(losses_at(STEPS, names, gram, v, primary)) for v in (values * half, values / half))
    torch.testing.assert_close(first, second)
    assert player.saved() == before, "an additive strategy changed its state"


def repeatable(strategy: LossWeighting, names: Names, gram: Tensor, values: Tensor, primary: Tensor) -> None:
    """Draws come from the step's stream: not from the global generator, which stays as it was."""
    once, again = Player(strategy, names), Player(strategy, names)
    torch.manual_seed(1)
    here = once.play(names, gram, values, primary)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    there = again.play(names, gram, values, primary)
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator was used"
    assert torch.equal(here, there), f"{here.tolist()} and {there.tolist()}"


PROPERTIES: dict[str, Property] = {
    p.__name__: p
    for p in (finite, order, protection, units, absent, returning, resume, plain_sum, accumulation, repeatable)
}


def asked(strategy: LossWeighting, name: str) -> bool:
    """Is the strategy held to this property? `protection` is a claim (`protects`), all others are expected."""
    return name != "protection" or bool(getattr(strategy, "protects", False))


def response(strategy: LossWeighting) -> float:
    """How a loss made 10 times larger pulls beside another one, on orthonormal gradients, as a power of 10.

    1: it pulls ten times as hard, as in a plain sum. 0: its size does not count. Below 0: large losses are held back.
    """
    names, primary = ("task", "pretext"), torch.tensor([True, False])
    pull = []
    for scale in (1.0, 10.0):
        size = torch.tensor([1.0, scale])
        rng = Streams((7,))("weighting")
        losses = StepLosses(names, size.clone().requires_grad_(), torch.diag(size.square()), primary, 0.0, 0, rng)
        factors = Player(strategy, names).factors(losses) * size
        pull.append(factors[1] / factors[0])
    return float(torch.log10(pull[1] / pull[0]))
