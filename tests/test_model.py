"""The hybrid network: which weights it has, what it refuses, and its network of inference."""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import evolve, frozen
from torch import nn
from toys import (
    EQUAL,
    PCGRAD,
    PRETEXTS,
    Rotation,
    RotationHead,
    Toy,
    batch,
    counted,
    experiment,
    prepared_batches,
    train_state,
)

from mtlcore import EMA, FrozenModule, MtlError, SharedHead
from mtlcore.config.experiment import PretextEntry
from mtlcore.model.hybrid import HybridModel
from mtlcore.networks import frozen_running_statistics, split
from mtlcore.training.step import train_step


def shapes(weights):
    return {name: tensor.shape for name, tensor in weights.items()}


def test_inference_has_only_the_encoder_and_the_supervised_heads():
    hybrid = HybridModel(experiment(("fer", "gender"), ("puzzle_pooled", "inpainting", "byol")))
    supervised = HybridModel(experiment(("fer", "gender")))
    weights = hybrid.inference().state_dict()
    assert shapes(weights) == shapes(supervised.inference().state_dict())
    assert set(weights) <= set(hybrid.state_dict())


def test_a_model_of_tasks_alone_builds_no_pretext():
    exp = experiment(("fer", "gender"), ("puzzle_pooled", "inpainting", "byol"))
    torch.manual_seed(0)
    alone = HybridModel(exp, tasks_only=True)
    torch.manual_seed(0)
    supervised = HybridModel(experiment(("fer", "gender")))
    assert list(alone.heads) == list(alone.tasks) == ["fer", "gender"]
    weights = supervised.state_dict()
    assert alone.state_dict().keys() == weights.keys()
    assert all(torch.equal(alone.state_dict()[name], weights[name]) for name in weights)


def test_a_head_that_registers_the_encoder_is_refused():
    class Registers(RotationHead):
        def __init__(self, context):
            super().__init__(context.info.dim)
            self.encoder = context.encoder

    @frozen
    class Greedy(Rotation):
        def build(self, context):
            return Registers(context)

    exp = experiment(("fer",), ("rotation",))
    exp = evolve(exp, pretexts={"greedy": evolve(exp.pretexts["rotation"], component=Greedy())})
    with pytest.raises(MtlError, match="greedy") as error:
        HybridModel(exp)
    assert "EMA(module)" in str(error.value)


def test_a_mean_loss_is_refused_and_the_message_names_coupled():
    class Mean(RotationHead):
        def loss(self, output, target):
            return super().loss(output, target).mean()

    state = train_state(experiment(("fer",), ("rotation",)))
    state.model.heads["rotation"].__class__ = Mean
    with pytest.raises(MtlError, match="coupled"):
        state.model(prepared_batches(state, [batch(tasks=("fer",))])[0])


def test_an_unknown_shared_head_raises_with_the_known_ones():
    with pytest.raises(MtlError, match="gender"):
        HybridModel(experiment(("gender",), ("fixmatch",)))


def test_an_encoder_that_does_not_return_features_is_refused():
    class Bare(Toy):
        def build(self, size):
            return nn.Flatten()

    with pytest.raises(MtlError, match="Features"):
        HybridModel(experiment(encoder=Bare()))


def test_info_is_measured_not_declared():
    info = HybridModel(experiment(size=32)).encoder.info
    assert info.dim == 16
    assert info.channels == (4, 8, 16)
    assert info.map_sizes == ((16, 16), (8, 8), (4, 4))
    assert info.image_size == (32, 32)


def test_a_deep_copy_shares_the_head_of_the_copy():
    model = HybridModel(experiment(("fer",), ("fixmatch",)))
    twin = copy.deepcopy(model)
    assert twin.heads["fixmatch"].shared.net is twin.heads["fer"]


def test_an_ema_moves_by_its_momentum_and_not_in_a_skipped_step():
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
    model = nn.ModuleDict({"frozen": frozen_net}).train().double()
    assert model.state_dict() == {}
    assert not frozen_net.net.training
    assert frozen_net.net.weight.dtype == torch.float64


def test_a_shared_network_passes_gradient_and_is_not_registered():
    net = nn.Linear(2, 2)
    shared = SharedHead(net)
    shared(torch.ones(1, 2)).sum().backward()
    assert list(shared.parameters()) == []
    assert net.weight.grad is not None


def test_a_momentum_copy_of_a_head_that_shares_a_part_is_refused():
    """The shared part is no parameter of the head: its copy would keep its initial weights."""
    trunk = nn.Linear(2, 2)
    with pytest.raises(MtlError, match=r"EMA\(Sequential\): it shares a Linear with another head"):
        EMA(nn.Sequential(SharedHead(trunk), nn.Linear(2, 1)))
    EMA(nn.Sequential(trunk, SharedHead(trunk)))  # a part of its own


def test_frozen_running_statistics_still_normalize_by_the_batch():
    norm = nn.BatchNorm1d(3)
    x = torch.randn(16, 3) * 5 + 2
    expected = nn.functional.batch_norm(x, None, None, training=True)
    with frozen_running_statistics(norm):
        found = norm(x)
    torch.testing.assert_close(found, expected)
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


def test_pretexts_do_not_change_the_initial_weights_of_encoder_and_tasks():
    """SL and HMTL runs of one seed are paired: both start from the same weights."""
    supervised = train_state(experiment(("fer",))).model.state_dict()
    hybrid = train_state(experiment(("fer",), tuple(PRETEXTS))).model.state_dict()
    assert all(torch.equal(v, hybrid[k]) for k, v in supervised.items())


# ------------------------------------------------------------------------------- shared heads


class UsesGender(RotationHead):
    """Uses the supervised head of `gender`: as a momentum copy, whole, or in part."""

    def __init__(self, context, how):
        super().__init__(context.info.dim)
        head = context.heads["gender"]
        self.how = how
        if how == "copied":
            self.used = EMA(head, 0.5)
        elif how == "shared":
            self.used = SharedHead(head)
        else:
            self.used = SharedHead(head.answer[1])

    def forward(self, features):
        read = features.pooled if self.how == "shared in part" else features
        return super().forward(features) * (1 + self.used(read)[:, :1])


@frozen
class Using(Rotation):
    how: str = "copied"

    def build(self, context):
        return UsesGender(context, self.how)


def using(how, **more):
    pretexts = {"using": PretextEntry(Using(how))}
    return evolve(experiment(("fer", "gender"), **more), pretexts=pretexts)


def ids(parameters):
    return {id(p) for p in parameters}


def test_a_momentum_copy_does_not_share_the_supervised_head():
    model = HybridModel(using("copied"))
    gender = ids(model.heads["gender"].parameters())
    assert gender <= ids(model.idle(["using"]))
    assert gender.isdisjoint(ids(model.shared()))
    assert gender == ids(model.own("gender"))


@pytest.mark.parametrize("how", ["shared", "shared in part"])
def test_a_loss_moves_what_its_head_shares_and_no_other_part_of_that_head(how):
    model = HybridModel(using(how))
    gender = ids(model.heads["gender"].parameters())
    part = model.heads["gender"].answer[1] if how == "shared in part" else model.heads["gender"]
    assert ids(model.idle(["using"])) & gender == gender - ids(part.parameters())
    assert gender <= ids(model.shared())
    assert model.own("gender") == []
    assert ids(model.own("fer")) == ids(model.heads["fer"].parameters())


@pytest.mark.parametrize(("how", "moves"), [("copied", False), ("shared", True)])
@pytest.mark.parametrize("weighting", [EQUAL, PCGRAD])
def test_without_labels_of_the_task_only_a_shared_head_moves(how, moves, weighting):
    state = train_state(using(how, weighting=weighting))
    head = state.model.heads["gender"].answer[1]
    before = head.bias.clone()
    unlabeled = batch(tasks=("fer", "gender"), absent=("gender",))
    train_step(state, counted([unlabeled]))
    assert torch.equal(head.bias, before) is not moves


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_a_split_is_that_of_torch_in_the_memory_format_of_the_input(
    memory_format,
) -> None:
    x = torch.rand(5, 4, 3, 2).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.rand(3, 4, 3, 2)
    gradients = []
    for parts in (split(x, [2, 3]), x.split([2, 3])):
        assert [len(part) for part in parts] == [2, 3]
        assert parts[1].data_ptr() == x[2:].data_ptr()
        (gradient,) = torch.autograd.grad((parts[1].square() * weight).sum(), x)  # one part alone
        gradients.append(gradient)
    assert torch.equal(*gradients)
    assert gradients[0].is_contiguous(memory_format=memory_format)
    first, second = split(x, [2, 3])
    (both,) = torch.autograd.grad(first.sum() + 2 * second.sum(), x)
    assert torch.equal(both, torch.tensor([1.0, 1, 2, 2, 2])[:, None, None, None].expand_as(x))
