"""Data parallel, for every strategy: two gloo processes on half batches equal one process on the joined batch."""

from __future__ import annotations

import pytest
import torch
import weighting_worker
from lightning_fabric import Fabric


@pytest.fixture(scope="module")
def two_ranks(on_two_ranks):
    """All strategies in one launch."""
    return on_two_ranks(weighting_worker.run)


@pytest.mark.parametrize("name", weighting_worker.CASES)
def test_twenty_steps_of_two_ranks_equal_those_of_one_process_on_the_joined_batches(
    two_ranks, name
):
    state, apart = two_ranks[name]
    alone = weighting_worker.trained(Fabric(accelerator="cpu", devices=1), name)
    assert apart == 0
    torch.testing.assert_close(state, alone, atol=1e-5, rtol=0)


def test_a_parameter_that_no_loss_reaches_stays_as_it_was_over_ranks(two_ranks):
    state, _ = two_ranks[weighting_worker.SPARE]
    assert torch.equal(state["heads.location.spare"], torch.ones(2, 2))


def test_batch_statistics_are_those_of_rank_0_as_a_step_begins_that_was_looked_at_ahead(two_ranks):
    """In later steps too, though the ranks' own micro-batches moved them apart in between; one message a dtype."""
    apart, messages = two_ranks["statistics"]
    assert apart == [0.0, 0.0, 0.0, 0.0]
    assert messages == 2  # float32 means and variances; int64 counters
