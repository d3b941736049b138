"""The network: what it keeps, what it refuses, what is left for inference."""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import evolve, frozen
from torch import nn
from toys import (
    PCGRAD,
    PRETEXTS,
    Rotation,
    RotationHead,
    Toy,
    batch,
    experiment,
    prepared_batches,
    train_state,
)

from mtlcore import EMA, FrozenModule, MtlError, SharedHead
from mtlcore.config.experiment import PretextEntry
from mtlcore.model.hybrid import HybridModel
from mtlcore.networks import running_statistics_kept
from mtlcore.train.step import train_step


def test_inference_keeps_the_encoder_and_the_supervised_heads_alone():
    hybrid = HybridModel(experiment(("fer", "gender"), ("puzzle_pooled", "inpainting", "byol")))
    supervised = HybridModel(experiment(("fer", "gender")))
    kept, alone = hybrid.inference().state_dict(), supervised.inference().state_dict()
    assert {k: v.shape for k, v in kept.items()} == {k: v.shape for k, v in alone.items()}
    assert set(kept) <= set(hybrid.state_dict())


def test_a_head_that_keeps_the_encoder_is_refused():
    class Keeps(RotationHead):
        def __init__(self, context):
            super().__init__(context.info.dim)
            self.encoder = context.encoder

    @frozen
    class Greedy(Rotation):
        def build(self, context):
            return Keeps(context)

    exp = experiment(("fer",), ("rotation",))
    exp = evolve(exp, pretexts={"greedy": evolve(exp.pretexts["rotation"], component=Greedy())})
    with pytest.raises(MtlError, match="greedy") as told:
        HybridModel(exp)
    assert "EMA(module)" in str(told.value)


def test_a_mean_loss_is_refused_and_the_message_names_coupled():
    class Mean(RotationHead):
        def loss(self, output, target):
            return super().loss(output, target).mean()

    eng = train_state(experiment(("fer",), ("rotation",)))
    eng.model.heads["rotation"].__class__ = Mean
    with pytest.raises(MtlError, match="coupled"):
        eng.model(prepared_batches(eng, [batch(tasks=("fer",))])[0])


def test_a_pretext_that_asks_for_an_unknown_head_is_told_the_known_ones():
    with pytest.raises(MtlError, match="gender"):
        HybridModel(experiment(("gender",), ("fixmatch",)))


def test_an_encoder_that_does_not_return_features_is_told():
    class Bare(Toy):
        def build(self, image_size):
            return nn.Flatten()

    with pytest.raises(MtlError, match="Features"):
        HybridModel(experiment(encoder=Bare()))


def test_info_is_measured_not_declared():
    info = HybridModel(experiment(size=32)).encoder.info
    assert (info.dim, info.channels, info.map_sizes, info.image_size) == (
        16,
        (4, 8, 16),
        ((16, 16), (8, 8), (4, 4)),
        32,
    )


def test_deepcopy_lends_the_copys_own_head():
    model = HybridModel(experiment(("fer",), ("fixmatch",)))
    twin = copy.deepcopy(model)
    assert twin.heads["fixmatch"].judge._net[0] is twin.heads["fer"]


def test_an_ema_moves_by_its_momentum_and_rests_on_a_skipped_step():
    source = nn.Linear(2, 2)
    ema = EMA(source, 0.9, final=1.0)
    start = ema.copy.weight.clone()
    with torch.no_grad():
        source.weight += 1
    ema.update(0.0, torch.tensor(0.0))
    assert torch.equal(ema.copy.weight, start)
    ema.update(0.5, torch.tensor(1.0))
    torch.testing.assert_close(ema.copy.weight, start + 0.05)
    ema.reset()
    assert torch.equal(ema.copy.weight, source.weight)
    assert not any(p.requires_grad for p in ema.parameters())


def test_a_frozen_network_is_not_saved_stays_in_eval_and_moves_with_the_model():
    frozen_net = FrozenModule(nn.BatchNorm1d(2))
    context = nn.ModuleDict({"judge": frozen_net}).train().double()
    assert context.state_dict() == {}
    assert not frozen_net.net.training
    assert frozen_net.net.weight.dtype == torch.float64


def test_a_borrowed_network_passes_gradient_and_is_not_registered():
    net = nn.Linear(2, 2)
    shared = SharedHead(net)
    shared(torch.ones(1, 2)).sum().backward()
    assert list(shared.parameters()) == []
    assert net.weight.grad is not None


def test_statistics_are_kept_while_the_batch_still_normalizes():
    norm = nn.BatchNorm1d(3)
    x = torch.randn(16, 3) * 5 + 2
    wanted = nn.functional.batch_norm(x, None, None, training=True)
    with running_statistics_kept(norm):
        got = norm(x)
    torch.testing.assert_close(got, wanted)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert int(norm.num_batches_tracked) == 0


def test_weights_depend_on_the_seed_alone():
    exp = experiment(("fer",), ("puzzle_pooled",))
    torch.manual_seed(1)
    a = train_state(exp).model.state_dict()
    torch.manual_seed(2)
    b = train_state(exp).model.state_dict()
    c = train_state(evolve(exp, seed=1)).model.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["encoder.net.stages.0.0.weight"], c["encoder.net.stages.0.0.weight"])


def test_a_pretext_brings_the_encoder_no_other_start():
    """Paired arms: SL and HMTL of one seed start from the same encoder and the same supervised head."""
    alone = train_state(experiment(("fer",))).model.state_dict()
    hybrid = train_state(experiment(("fer",), tuple(PRETEXTS))).model.state_dict()
    assert all(torch.equal(v, hybrid[k]) for k, v in alone.items())


# ---------------------------------------------------------------------------------------------------- shared heads


class Takes(RotationHead):
    """Reads the supervised head of `gender`: as a momentum copy, whole, or in part."""

    def __init__(self, context, how):
        super().__init__(context.info.dim)
        head = context.heads["gender"]
        made = {"copied": lambda: EMA(head, 0.5), "shared": lambda: SharedHead(head)}
        made["shared in part"] = lambda: SharedHead(head.answer[1])
        self.how, self.judge = how, made[how]()

    def forward(self, features):
        read = features.pooled if self.how == "shared in part" else features
        return super().forward(features) * (1 + self.judge(read)[:, :1])


@frozen
class Taking(Rotation):
    how: str = "copied"

    def build(self, context):
        return Takes(context, self.how)


def taking(how, **more):
    return evolve(
        experiment(("fer", "gender"), **more), pretexts={"taking": PretextEntry(Taking(how))}
    )


def test_a_momentum_copy_of_a_supervised_head_leaves_that_head_its_owners():
    model = HybridModel(taking("copied"))
    mine = {id(p) for p in model.heads["gender"].parameters()}
    assert model.used(["taking"]) == {"taking"}
    assert mine.isdisjoint({id(p) for p in model.shared()})
    assert mine == {id(p) for p in model.own("gender")}


@pytest.mark.parametrize("how", ["shared", "shared in part"])
def test_a_borrowed_supervised_head_counts_as_used_and_as_shared(how):
    model = HybridModel(taking(how))
    mine = {id(p) for p in model.heads["gender"].parameters()}
    assert model.used(["taking"]) == {"taking", "gender"}
    assert mine <= {id(p) for p in model.shared()}
    assert model.own("gender") == []
    assert {id(p) for p in model.own("fer")} == {id(p) for p in model.heads["fer"].parameters()}


@pytest.mark.parametrize(("how", "moved"), [("copied", False), ("shared", True)])
@pytest.mark.parametrize("weighting", [None, PCGRAD])
def test_a_step_without_the_owners_labels_moves_a_borrowed_head_and_lets_a_copied_one_rest(
    how, moved, weighting
):
    eng = train_state(taking(how, **({"weighting": weighting} if weighting else {})))
    head = eng.model.heads["gender"].answer[1]
    before = head.bias.clone()
    train_step(eng, prepared_batches(eng, [batch(tasks=("fer", "gender"), absent=("gender",))]))
    assert torch.equal(head.bias, before) is not moved
