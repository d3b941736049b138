"""Data parallel: two gloo processes on half batches equal one process on the joined batch."""

from __future__ import annotations

import pytest
import rank_worker
import torch
from lightning_fabric import Fabric


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "found.pt"
    Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(rank_worker.run, out)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", rank_worker.CASES)
def test_two_ranks_equal_one_process_on_the_joined_batch(two_ranks, name):
    """Uneven labels, an absent task, uneven micro-batches; the parameters of both ranks are bit-equal."""
    state, apart = two_ranks[name]
    alone = rank_worker.train_case(Fabric(accelerator="cpu", devices=1), name)
    assert apart == 0
    torch.testing.assert_close(state, alone, atol=1e-5, rtol=0)


def test_ranks_agree_on_batch_norm_under_gradients_by_rows(two_ranks):
    assert two_ranks["batch norm"][1] == 0
