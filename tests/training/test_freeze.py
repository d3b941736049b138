"""`encoder.freeze`: no gradient, eval mode, not in the optimizer."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from toys import (
    PCGRAD,
    UNCERTAINTY,
    Plain,
    Toy,
    batch,
    counted,
    experiment,
    prepared_batches,
    prepared_step,
    train_state,
)
from weightings import Fixed

from mtlcore import MtlError
from mtlcore.training.step import train_step


def frozen_state(freeze, pretexts=(), optimizer="adamw", weighting=None, **train):
    exp = experiment(("fer", "gender"), pretexts, augment=Plain())
    if weighting is not None:
        exp = evolve(exp, weighting=weighting)
    return train_state(evolve(exp, freeze=freeze), optimizer, **train)


def encoder_state(state, stages=3):
    """Weights and BatchNorm statistics of the first stages."""
    starts = tuple(f"encoder.net.stages.{k}." for k in range(stages))
    found = state.model.state_dict().items()
    return {k: v.clone() for k, v in found if k.startswith(starts)}


def unequal(one, two):
    return sorted(k for k in one if not torch.equal(one[k], two[k]))


@pytest.mark.parametrize(("freeze", "stages"), [("stem", 1), (1, 2), (2, 3), ("all", 3)])
def test_frozen_weights_and_statistics_stay_and_all_others_move(freeze, stages):
    state = frozen_state(freeze, ("rotation", "byol"), ema=0.5)
    fixed, every = encoder_state(state, stages), encoder_state(state)
    for step in range(3):
        assert not train_step(state, counted([batch(seed=step)]))["skipped"]
    assert unequal(fixed, encoder_state(state, stages)) == []
    assert unequal(every, encoder_state(state)) == sorted(every.keys() - fixed.keys())
    trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in state.model.parameters() if p.requires_grad}


def test_a_frozen_stem_trains_like_a_hand_written_loop_with_its_batchnorm_in_eval_mode():
    state = frozen_state("stem", optimizer="sgd", lr=0.1, clip=1e9)
    model = frozen_state("none").model.train()
    model.encoder.net.stages[0].eval()
    fixed = {id(p) for p in model.encoder.net.stages[0].parameters()}
    trained = [p for p in model.parameters() if id(p) not in fixed]
    moving = [torch.zeros_like(p) for p in trained]
    for step in range(3):
        made = prepared_batches(state, [batch(n=8, unlabeled=0, seed=step)])[0]
        loss = sum(model(made)[0].values())
        gradients = torch.autograd.grad(loss, trained)
        with torch.no_grad():
            for p, g, v in zip(trained, gradients, moving):
                v.mul_(0.9).add_(g + (0.05 * p if p.ndim > 1 else 0))
                p -= 0.1 * v
        prepared_step(state, [made])
    torch.testing.assert_close(state.model.state_dict(), model.state_dict(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weighting", [UNCERTAINTY, PCGRAD])
def test_every_kind_of_weighting_trains_with_a_frozen_stem(weighting):
    state = frozen_state("stem", ("rotation",), weighting=weighting)
    for step in range(2):
        assert not train_step(state, counted([batch(seed=step)]))["skipped"]


@pytest.mark.parametrize("at", ["parameters", "features"])
def test_a_weighting_by_gradients_needs_shared_parameters_that_are_trained(at):
    with pytest.raises(MtlError, match=r'encoder\.freeze = "all".*nothing that all losses share'):
        frozen_state("all", weighting=Fixed(at=at))


def test_more_stages_than_the_encoder_has_are_refused():
    with pytest.raises(MtlError, match="this encoder has 2 stages"):
        frozen_state(3)


def test_dropout_of_a_frozen_part_is_off_and_batchnorm_of_the_rest_is_not():
    class WithDropout(Toy):
        def build(self, size):
            net = super().build(size)
            for stage in net.stages:
                stage.append(torch.nn.Dropout(0.5))
            return net

    exp = evolve(experiment(("fer",), encoder=WithDropout()), freeze=1)
    stages = train_state(exp).model.train().encoder.net.stages
    assert [[m.training for m in stage] for stage in stages] == [[False] * 4] * 2 + [[True] * 4]
