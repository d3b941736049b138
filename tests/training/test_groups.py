"""Groups of parameters: learning rates of the encoder, of its layers, and of names."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from attrs import evolve, frozen
from toys import Toy, batch, counted, experiment, prepared_batches, prepared_step, train_state

from mtlcore import GroupOverride, MtlError, ParameterGroups
from mtlcore.config.experiment import Schedule
from mtlcore.training.groups import groups_of, short_name
from mtlcore.training.state import TrainState


def made(optimizer: str = "sgd", lr: float = 0.1, encoder=None, **keys) -> TrainState:
    """A state with a constant learning rate, and these keys of [optimizer]."""
    exp = experiment(("fer",), encoder=encoder)
    return train_state(evolve(exp, parameter_groups=ParameterGroups(**keys)), optimizer, lr)


def rates(state: TrainState) -> dict[str, tuple[float, float]]:
    """Parameter, as users write it -> its learning rate and weight decay."""
    state.set_learning_rate()
    of = {
        id(p): (group["lr"], group["weight_decay"])
        for group in state.optimizer.param_groups
        for p in group["params"]
    }
    names = state.model.named_parameters()
    return {short_name(name): of[id(p)] for name, p in names}


def test_without_keys_there_are_two_groups_as_torch_takes_them():
    state = made("adamw")
    weights, vectors = state.optimizer.param_groups
    assert [p.ndim > 1 for p in weights["params"]] == [True] * len(weights["params"])
    assert {p.ndim for p in vectors["params"]} == {1}
    assert (weights["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    assert list(groups_of(state.model, state.experiment).groups[0]) == ["params", "weight_decay"]


def test_two_learning_rates_train_like_a_hand_written_loop():
    """AdamW of torch with the groups written out, and a cosine schedule after a warm-up."""
    # Without BatchNorm: Adam would amplify the rounding errors of a bias in front of it.
    state = made("adamw", 0.01, Toy(norm="none"), encoder_lr=0.002)
    schedule = Schedule(name="cosine", warmup=2)
    state.experiment = evolve(
        state.experiment,
        schedule=schedule,
        train=evolve(state.experiment.train, clip=1e9),
    )
    model = copy.deepcopy(state.model)
    groups = []
    for part, lr in ((model.heads, 0.01), (model.encoder, 0.002)):
        groups += [
            {"params": [p for p in part.parameters() if p.ndim > 1], "peak": lr},
            {"params": [p for p in part.parameters() if p.ndim <= 1], "peak": lr},
        ]
    reference = torch.optim.AdamW(groups, weight_decay=0.05)
    for group in reference.param_groups[1::2]:
        group["weight_decay"] = 0.0

    for step in range(5):
        factor = (step + 1) / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / 98))
        for group in reference.param_groups:
            group["lr"] = group["peak"] * factor
        prepared = prepared_batches(state, [batch(seed=step, tasks=("fer",))])[0]
        losses, _ = model(prepared)
        reference.zero_grad()
        losses["fer"].backward()
        reference.step()
        state.set_learning_rate()
        prepared_step(state, [prepared])
    torch.testing.assert_close(list(state.model.parameters()), list(model.parameters()))


def test_layer_decay_multiplies_from_the_last_layer_to_the_first():
    """Three layers: MAE's and timm's powers. Heads keep `lr`, layers begin at `encoder_lr`."""
    found = rates(made(lr=1.0, encoder_lr=0.1, layer_decay=0.5))
    layers = [found[f"encoder.stages.{k}.0.weight"][0] for k in range(3)]
    assert layers == [0.1 * 0.5**3, 0.1 * 0.5**2, 0.1 * 0.5]
    heads = {lr for name, (lr, _) in found.items() if name.startswith("heads.")}
    assert heads == {1.0}


def test_the_last_matching_pattern_counts_and_vectors_keep_no_decay_unless_it_says_so():
    groups = (
        GroupOverride("encoder.*", lr=0.3),
        GroupOverride("encoder.stages.0.*", lr=0.7, weight_decay=0.2),
        GroupOverride("heads.*.bias", weight_decay=0.4),
    )
    found = rates(made(lr=1.0, layer_decay=0.5, groups=groups))
    assert found["encoder.stages.0.0.weight"] == (0.7, 0.2)
    assert found["encoder.stages.0.1.bias"] == (0.7, 0.2)
    assert found["encoder.stages.1.0.weight"] == (0.3, 0.05)
    assert found["encoder.stages.1.0.bias"] == (0.3, 0.0)
    assert {v for k, v in found.items() if k.startswith("heads") and k.endswith("bias")} == {
        (1.0, 0.4)
    }


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("encoder.stage.0.*", "nearest: encoder.stages.0."),
        ("encoder.stages.1", 'set match = "encoder.stages.1.*"'),
        ("head.fer.*", "nearest: heads.fer."),
    ],
)
def test_a_pattern_that_matches_nothing_lists_the_nearest_parameters(match, message):
    with pytest.raises(MtlError) as raised:
        made(groups=(GroupOverride(match, lr=0.1),))
    assert message in str(raised.value)


def test_a_pattern_of_frozen_parameters_says_so():
    groups = ParameterGroups(groups=(GroupOverride("encoder.*", lr=0.1),))
    exp = evolve(experiment(("fer",)), freeze="all", parameter_groups=groups)
    with pytest.raises(MtlError, match="all of these parameters are frozen"):
        train_state(exp)


@frozen
class Deep(Toy):
    """An encoder that does not declare its layers."""

    def layers(self, net):
        return ()


def test_layer_decay_needs_an_encoder_that_declares_its_layers():
    with pytest.raises(MtlError, match=r"layer_decay = 0.5: the encoder Deep .*Encoder.layers"):
        made(encoder=Deep(), layer_decay=0.5)


def test_a_learning_rate_that_a_training_loop_sets_keeps_the_ratios():
    state = made(lr=1.0, encoder_lr=0.1)
    state.own_lr = 0.5
    found = rates(state)
    assert found["encoder.stages.0.0.weight"][0] == pytest.approx(0.05)
    assert {lr for name, (lr, _) in found.items() if name.startswith("heads.")} == {0.5}
    prepared_step(state, prepared_batches(state, counted([batch(tasks=("fer",))])))
