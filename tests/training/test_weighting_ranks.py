"""Data parallel, for every strategy: two gloo processes equal one process on the whole batch."""

from __future__ import annotations

import pytest
import torch
import weighting_worker
from lightning_fabric import Fabric

# Many strategies share one launch: the limit only ends processes that hang. Among the faster tests,
# test_ranks.py covers each way to the gradient.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="session")
def two_ranks(on_two_ranks):
    """All strategies in one launch."""
    return on_two_ranks(weighting_worker.run)


def test_twenty_steps_of_two_ranks_equal_those_of_one_process_on_whole_batches(two_ranks, subtests):
    for name in weighting_worker.CASES:
        with subtests.test(name=name):
            state, difference = two_ranks[name]
            one_process = weighting_worker.trained(Fabric(accelerator="cpu", devices=1), name)
            assert difference == 0
            torch.testing.assert_close(state, one_process, atol=1e-5, rtol=0)


def test_a_parameter_that_no_loss_reaches_stays_the_same_over_ranks(two_ranks):
    state, _ = two_ranks[weighting_worker.SPARE]
    assert torch.equal(state["heads.location.spare"], torch.ones(2, 2))


def test_a_step_whose_losses_are_computed_first_begins_with_the_statistics_of_rank_0(two_ranks):
    """In later steps too, where the ranks' own micro-batches made their statistics differ."""
    differences, messages = two_ranks["statistics"]
    assert differences == [0.0, 0.0, 0.0, 0.0]
    assert messages == 2  # float32 means and variances; int64 counters
