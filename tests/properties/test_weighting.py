"""Every weighting against the conformance kit; exceptions in `lacks`; steps that once failed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from properties.weighting_report import STRATEGIES, suite
from torch import Tensor

from mtlcore import StepLosses
from mtlcore.config import load
from mtlcore.registry.catalog import catalog
from mtlcore.rng import KeyedRng
from mtlcore.runs import RunFolder
from mtlcore.testing.weighting.harness import DrawnStep
from mtlcore.training.trainer import train
from mtlcore.weighting import TorchJD
from mtlcore.weighting.torchjd_methods import METHODS

torch.set_num_threads(1)
EXAMPLES = {
    "torchjd:CAGrad": 3,
    "torchjd:FairGrad": 3,
    "torchjd:FAMO": 3,
}  # slow: iterative solvers, and an Adam in each step
suite_of = cache(lambda label: suite(label, EXAMPLES.get(label, 6)))


def cases(pairs, slow=()):
    """Return pytest's cases of (strategy, ...). Those of TorchJD are skipped if it is missing."""
    absent = pytest.mark.skipif(find_spec("torchjd") is None, reason="torchjd is an extra")
    return [
        pytest.param(
            *pair,
            marks=[absent] * pair[0].startswith("torchjd") + [pytest.mark.slow] * (pair[0] in slow),
            id="-".join(pair),
        )
        for pair in pairs
    ]


# One wrapper runs all methods of TorchJD: without `slow`, one with a Gramian and one with a state.
MOST_OF_TORCHJD = {s for s in STRATEGIES if s.startswith("torchjd")} - {
    "torchjd:UPGrad",
    "torchjd:DWA",
}


@pytest.mark.parametrize("strategy", cases(((s,) for s in STRATEGIES), slow=MOST_OF_TORCHJD))
def test_a_strategy_conforms(strategy):
    report = suite_of(strategy).report()
    assert not report.of("failed", "blocked"), report.failures()
    assert report.counts["ran"] > 15


def test_the_kit_checks_every_registered_weighting_and_every_method_of_torchjd():
    own = {
        n
        for n, cls in catalog().of_kind("weighting").items()
        if cls.__module__.split(".")[0] == "mtlcore"
    }
    assert own == {label.partition(" ")[0].partition(":")[0] for label in STRATEGIES}
    assert {f"torchjd:{method}" for method in METHODS} <= STRATEGIES.keys()


# ------------------------------------------------------------ declared exceptions

CONFLICTS = tuple(
    DrawnStep(rows, sizes, (0.5, 1.0, 2.0), (True, False, True))
    for rows in (((2, 1, 0), (-1, 1, 2), (1, -3, 1)), ((1, 0, 1), (-2, 1, 0), (0, -1, 1)))
    for sizes in ((1.0, 1.0, 1.0), (1.0, 0.01, 100.0))
)


def fails(check, subject):
    try:
        for drawn in CONFLICTS if check.drawn else (None,):
            check.run(*([subject, drawn] if check.drawn else [subject]))
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(
    ("strategy", "capability"), cases((s, c) for s in STRATEGIES for c in suite_of(s).lacks)
)
def test_a_check_with_a_declared_exception_really_fails(strategy, capability):
    """Each check that the exception switches off fails without it."""
    checked = suite_of(strategy)
    off = [check for check in checked.checks.checks.values() if check.capability == capability]
    assert off
    assert {check.name: fails(check, checked.subject) for check in off} == {
        check.name: True for check in off
    }


# ------------------------------------------------------------ pinned steps


def task_weights(strategy: str, jacobian: Tensor) -> Tensor:
    """Return (K,) float64 for gradients (K, P) float64. The Gramian is float32."""
    k = len(jacobian)
    names, values, rng = (
        ("fer", "pose", "puzzling")[:k],
        torch.ones(k).requires_grad_(),
        KeyedRng((7,))("weighting"),
    )
    gram = (jacobian @ jacobian.T).float()
    TorchJD(strategy).build(names)(
        StepLosses(names, values, gram, torch.arange(k) < 1, 0.0, 0, rng)
    ).backward()
    assert values.grad is not None
    return values.grad.double()


@pytest.mark.parametrize("method", ["UPGrad", "DualProj"])
@pytest.mark.parametrize(
    "rows",
    [
        [
            [0.01],
            [0.0],
            [-1.0],
        ],  # TorchJD's own UPGrad has <step, first> = -0.005
        [[-0.01], [0.02], [-300.0]],
        [[1e-4, 0.0], [-3.0, 1e-4], [1.0, 2.0]],
    ],
)
def test_no_task_is_opposed_by_more_than_the_regularization(method, rows):
    jacobian = torch.tensor(rows, dtype=torch.float64)
    got, length = task_weights(method, jacobian), jacobian.norm(dim=1)
    along = jacobian @ (got @ jacobian)
    assert (along >= -2.5e-4 * length * (got.abs() @ length)).all(), along.tolist()


def test_aligned_mtl_balances_a_short_gradient_with_a_long_one():
    """Orthogonal gradients of 0.001 and 1: the long one gets the length of the short one."""
    got = task_weights("AlignedMTL", torch.tensor([[1e-3, 0.0], [0.0, 1.0]], dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([1.0, 1e-3]).double(), rtol=1e-5, atol=0)


def test_aligned_mtl_finds_the_rank_of_dependent_gradients():
    """(0, 0.01), (0, 2), (0.01, 0.01) span a plane. Computed from their singular vectors."""
    jacobian = torch.tensor([[0.0, 0.01], [0.0, 2.0], [0.01, 0.01]], dtype=torch.float64)
    u, s, _ = torch.linalg.svd(jacobian, full_matrices=False)
    expected = s[-1] * (u / s) @ u.T @ torch.ones(3, dtype=torch.float64)
    got = task_weights("AlignedMTL", jacobian)
    torch.testing.assert_close(got @ jacobian, expected @ jacobian, rtol=1e-4, atol=1e-7)


def test_imtl_g_has_equal_projections_on_a_short_and_a_long_gradient():
    jacobian = torch.tensor([[1e-3, 0.0], [3.0, 4.0]], dtype=torch.float64)
    got = task_weights("IMTLG", jacobian)
    along = (jacobian @ (got @ jacobian)) / jacobian.norm(dim=1)
    torch.testing.assert_close(along[0], along[1], rtol=1e-4, atol=0)
    assert got.sum().item() == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("length", [1.0, 3.0, 0.01])
def test_imtl_g_takes_no_step_if_two_gradients_are_opposite(length):
    assert task_weights(
        "IMTLG", torch.tensor([[1.0, 2.0], [-length, -2 * length]]).double()
    ).tolist() == [0, 0]


# ------------------------------------------------------------ weight 0

CONFIG = f"""
plugins = ["{Path(__file__).resolve().parents[1] / "dots.py"}"]
[encoder]
width = 4
[task.quarter]
name = "classification"
[data.dots]
[input]
size = 16
batch_size = 16
[augment]
name = "weak"
[schedule]
warmup = 0

[train]
steps = 3
save_every = 3
log_every = 1
"""


@pytest.mark.parametrize(
    "strategy", ["equal", "uncertainty", "budget", "torchjd:DWA", "torchjd:UPGrad"]
)
def test_a_pretext_of_weight_0_has_no_head_and_changes_no_weight(strategy, tmp_path):
    """A run with the table equals the run without it, bit for bit."""
    runs = []
    for name, table in (("without", ""), ("with", "[pretext.puzzling]\ngrid = 2\nweight = 0\n")):
        config = tmp_path / f"{name}.toml"
        config.write_text(f'{CONFIG}[weighting]\nname = "{strategy}"\n{table}')
        train(load(config), tmp_path / name)
        runs.append(RunFolder(tmp_path / name).require())
    without, with_table = (run.weights() for run in runs)
    assert with_table.keys() == without.keys()
    assert not [key for key in with_table if "puzzling" in key]
    assert all(torch.equal(with_table[key], without[key]) for key in with_table)
    assert not [
        key for row in RunFolder(tmp_path / "with").log.rows() for key in row if "puzzling" in key
    ]
