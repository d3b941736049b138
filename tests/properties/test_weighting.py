"""Every strategy against every property; what a strategy declares in `lacks` must really fail somewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from weighting_properties import PROPERTIES, STRATEGIES, asked

torch.set_num_threads(1)
EVERY = [(s, p) for s in STRATEGIES for p in PROPERTIES if asked(STRATEGIES[s], p)]
HELD = [(s, p) for s, p in EVERY if p not in STRATEGIES[s].lacks]
DECLARED = [(s, p) for s, p in EVERY if p in STRATEGIES[s].lacks]


@st.composite
def steps(draw):
    """Small integers make equal, opposed and vanishing gradients, and Gramians of any rank; sizes differ by up to 1e4."""
    k, rank = draw(st.integers(2, 4)), draw(st.integers(1, 5))
    row = st.lists(st.integers(-3, 3), min_size=rank, max_size=rank)
    jacobian = torch.tensor(draw(st.lists(row, min_size=k, max_size=k)), dtype=torch.float32)
    size = torch.tensor(draw(st.lists(st.sampled_from([0.01, 1.0, 100.0]), min_size=k, max_size=k)))
    jacobian = jacobian * size[:, None]
    values = torch.tensor(draw(st.lists(st.floats(0.01, 10), min_size=k, max_size=k)))
    primary = torch.tensor(draw(st.lists(st.booleans(), min_size=k, max_size=k)))
    names = ("fer", "pose", "puzzling", "rotation")[:k]
    return names, jacobian @ jacobian.T, values, primary


@pytest.mark.parametrize(("strategy", "name"), HELD)
@settings(max_examples=6)
@given(step=steps())
def test_a_strategy_keeps_the_property(strategy, name, step):
    PROPERTIES[name](STRATEGIES[strategy], *step)


def conflict(seed: int):
    """Four tasks whose gradients oppose each other, or all lie on one line."""
    g = torch.Generator().manual_seed(seed)
    jacobian = torch.randn(4, 1 + seed % 3, generator=g)
    values = 0.5 + torch.rand(4, generator=g)
    return ("fer", "pose", "puzzling", "rotation"), jacobian @ jacobian.T, values, torch.tensor([1, 0, 0, 0]).bool()


@pytest.mark.parametrize(("strategy", "name"), DECLARED)
def test_a_declared_exception_is_a_real_one(strategy, name):
    assert STRATEGIES[strategy].lacks[name]

    def on_each():
        for seed in range(6):
            PROPERTIES[name](STRATEGIES[strategy], *conflict(seed))

    with pytest.raises(AssertionError):
        on_each()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exceptions_name_known_properties(strategy):
    assert STRATEGIES[strategy].lacks.keys() <= PROPERTIES.keys()
