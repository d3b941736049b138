"""Data parallel: two gloo processes on half batches equal one process on the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import rank_worker
import torch
from lightning_fabric import Fabric

from mtlcore.runs import RunFolder

HANG_S = 1800  # only ends a process that hangs
pytestmark = pytest.mark.timeout(2 * HANG_S)

DOTS_CONFIG = f"""
plugins = ["{Path(__file__).resolve().parents[1] / "dots.py"}"]

[encoder]
width = 4

[task.quarter]
name = "classification"
dropout = 0.0

[data.dots]

[input]
size = 16
batch_size = 16

[augment]
name = "weak"

[optimizer]
name = "sgd"

[train]
steps = 6
eval_every = 3
accelerator = "cpu"
"""


@pytest.fixture(scope="session")
def two_ranks(on_two_ranks):
    return on_two_ranks(rank_worker.run)


@pytest.mark.parametrize("name", rank_worker.CASES)
def test_two_ranks_equal_one_process_on_the_joined_batch(two_ranks, name):
    """With uneven labels, an absent task and uneven micro-batches; both ranks are bit-equal."""
    state, difference = two_ranks[name]
    one_process = rank_worker.train_case(Fabric(accelerator="cpu", devices=1), name)
    assert difference == 0
    # Two ranks add the same floats in another order than one process, and how the sums round
    # depends on the processor. The largest difference seen is 1.14e-5 (PCGrad).
    torch.testing.assert_close(state, one_process, atol=2e-5, rtol=0)


def test_ranks_agree_on_batch_norm_with_a_gradient_for_each_loss(two_ranks):
    assert two_ranks["batch norm"][1] == 0


@pytest.mark.slow
def test_two_processes_of_torchrun_train_through_the_command_line(tmp_path):
    """Real processes: they evaluate on one rank, save, and equal one with two micro-batches."""
    config = tmp_path / "dots.toml"
    config.write_text(DOTS_CONFIG)
    code = tmp_path / "mtl.py"
    code.write_text("import sys\nfrom mtlcore.cli import main\nsys.exit(main())\n")
    train = [str(code), "train", str(config), "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    two = [*torchrun, *train, str(tmp_path / "two")]
    one = [sys.executable, *train, str(tmp_path / "one"), "--set", "train.accumulate=2"]
    for words in (two, one):
        done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr[-2000:]
    a, b = (RunFolder(tmp_path / name).require().weights() for name in ("two", "one"))
    # BatchNorm's statistics are those of rank 0 alone.
    parameters = [k for k in a if "running" not in k and "num_batches" not in k]
    torch.testing.assert_close(
        [a[k] for k in parameters], [b[k] for k in parameters], atol=1e-6, rtol=0
    )
