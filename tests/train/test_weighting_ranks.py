"""Data parallel, for every strategy: two gloo processes on half batches equal one process on the joined batch."""

from __future__ import annotations

import pytest
import torch
import weighting_worker
from lightning_fabric import Fabric
from weightings import STRATEGIES


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """All strategies in one launch."""
    out = tmp_path_factory.mktemp("ranks") / "found.pt"
    Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(weighting_worker.run, out)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("name", STRATEGIES)
def test_twenty_steps_of_two_ranks_equal_those_of_one_process_on_the_joined_batches(two_ranks, name):
    state, apart = two_ranks[name]
    alone = weighting_worker.trained(Fabric(accelerator="cpu", devices=1), name)
    assert apart == 0
    torch.testing.assert_close(state, alone, atol=1e-5, rtol=0)
