"""Loading weights by name: what does not fit is listed, and nothing is loaded then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mtlcore import MtlError
from mtlcore.weights import ANY_OTHER, load_weights


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def weights() -> dict[str, Tensor]:
    return {name: torch.full_like(value, 7) for name, value in net().state_dict().items()}


def test_every_weight_and_buffer_is_loaded() -> None:
    mine = net()
    load_weights(mine, weights(), "here")
    assert all((value == 7).all() for value in mine.state_dict().values())


def test_all_problems_are_listed_and_the_network_stays_as_it_was() -> None:
    mine = net()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    wrong = weights() | {"0.weight": torch.zeros(4, 2), "head.bias": torch.zeros(1)}
    del wrong["1.running_mean"]
    with pytest.raises(MtlError) as error:
        load_weights(mine, wrong, "runs/a")
    assert str(error.value) == (
        "runs/a: the weights do not fit this network. 1 missing: 1.running_mean; "
        "1 unexpected: head.bias; 1 of another shape: 0.weight 4x2, not 3x2"
    )
    assert all(torch.equal(before[name], value) for name, value in mine.state_dict().items())


def test_a_part_of_a_network_ignores_the_weights_of_the_rest() -> None:
    more = weights() | {"head.bias": torch.zeros(1), "fc.bias": torch.zeros(1)}
    load_weights(net(), more, "here", ignore=ANY_OTHER)
    with pytest.raises(MtlError, match=r"1 unexpected: head\.bias$"):
        load_weights(net(), more, "here", ignore=("fc.",))


def test_batch_counters_may_be_missing_only_where_the_caller_says_so() -> None:
    old = weights()
    del old["1.num_batches_tracked"]
    load_weights(net(), old, "here", counters=False)
    with pytest.raises(MtlError, match=r"1 missing: 1\.num_batches_tracked"):
        load_weights(net(), old, "here")
