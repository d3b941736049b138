"""Micro-batches: prepared one by one, in the order of the plan, shared by the ranks of a run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves
from toys import EQUAL, PCGRAD, batch, counted, experiment, prepared_batches, train_state
from weightings import Fixed

from mtlcore import Head, MtlError, PretextTask
from mtlcore.config.experiment import PretextEntry
from mtlcore.contracts import PreparedBatch
from mtlcore.model.plan import training_plan
from mtlcore.training.devices import with_micro_batches
from mtlcore.training.micro_batches import forward
from mtlcore.training.step import train_step
from mtlcore.weighting import TorchJD

# One weighting for each way to the gradient. "losses of the whole step": two forwards each.
WEIGHTINGS = {
    "one by one": EQUAL,
    "losses of the whole step": Fixed(at="losses"),
    "a backward for each loss": PCGRAD,
    "cached task weights": TorchJD("UPGrad", every=9),
}
PRETEXTS = ("inpainting", "byol", "puzzle_pooled")


@frozen
class Product(PretextTask):
    """The gradient of its loss needs a view, so the loss keeps that view alive."""

    def views(self, batch, rng):
        view = batch.augment(1)
        return [view], view.images

    def build(self, context):
        return ProductHead(context.info.channels[-1])


class ProductHead(Head):
    def __init__(self, channels):
        super().__init__()
        self.answer = nn.Conv2d(channels, 3, 1)

    def forward(self, features):
        return F.interpolate(self.answer(features.maps[-1]), features.images.shape[-2:])

    def loss(self, output, target):
        return (output * target).mean((1, 2, 3))


def float_views(prepared: PreparedBatch) -> list[Tensor]:
    """Return the images of a prepared batch, and the targets that are images."""
    leaves = [*prepared.images, *tree_leaves([list(r) for r in prepared.head_inputs.values()])]
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    return [x for x in tensors if x.ndim == 4 and x.is_floating_point()]


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_views_of_one_micro_batch_are_alive_when_a_forward_begins(name):
    exp = experiment(("fer",), ("rotation",), weighting=WEIGHTINGS[name])
    state = train_state(evolve(exp, pretexts={"product": PretextEntry(Product()), **exp.pretexts}))
    known: list[list[StorageWeakRef]] = []
    alive: list[int] = []

    def begin(module: torch.nn.Module, inputs: tuple[PreparedBatch]) -> None:
        own = [StorageWeakRef(x.untyped_storage()) for x in float_views(inputs[0])]
        known.append(own)
        alive.append(sum(any(not ref.expired() for ref in refs) for refs in known))

    state.model.register_forward_pre_hook(begin)
    for step in range(2):  # in the second, task weights are cached
        batches = [batch(seed=10 * step + i, tasks=("fer",)) for i in range(3)]
        train_step(state, counted(batches))
    forwards = 2 if name == "losses of the whole step" else 1
    assert alive == [1] * (2 * 3 * forwards)


def test_a_micro_batch_that_is_prepared_twice_has_the_same_bits():
    state = train_state(experiment(("fer",), PRETEXTS, weighting=Fixed(at="losses")))
    seen: list[list[Tensor]] = []
    state.model.register_forward_pre_hook(lambda module, inputs: seen.append(float_views(*inputs)))
    train_step(state, counted([batch(seed=i, tasks=("fer",)) for i in range(2)]))
    first, again = seen[:2], seen[2:]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
        assert not any(x is y for x, y in zip(one, other))


@pytest.mark.parametrize("weighting", [EQUAL, Fixed(at="losses")])
def test_the_step_counts_each_encoded_image_once(weighting):
    state = train_state(experiment(pretexts=PRETEXTS, weighting=weighting))
    batches = counted([batch(seed=i, unlabeled=2) for i in range(2)])
    made = prepared_batches(state, batches)
    train_step(state, batches)
    assert state.encoded == sum(len(x) for prepared in made for x in prepared.images)


@pytest.mark.parametrize("absent", [(), ("gender",), ("fer", "gender")])
@pytest.mark.parametrize("unlabeled", [0, 2])
def test_the_labels_of_a_step_are_known_without_preparing_it(absent, unlabeled):
    entries = {"fixmatch": {"samples": "unlabeled"}, "byol": {"control": "views_only"}}
    exp = experiment(("gender", "fer"), ("rotation", "byol", "fixmatch"), entries=entries)
    b = batch(tasks=("fer", "gender"), absent=absent, unlabeled=unlabeled)
    if len(absent) == 2 and not unlabeled:
        b = evolve(b, labeled_samples=len(b.images))
    [b] = counted([b])
    [made] = prepared_batches(train_state(exp), [b])
    labels = training_plan(exp).labels(b.counts)
    assert labels == tuple(made.head_inputs) == tuple(made.scale)
    assert ("gender" in labels, "fer" in labels) == ("gender" not in absent, "fer" not in absent)
    assert ("fixmatch" in labels) == (b.counts.unlabeled_samples > 0)
    assert "byol" not in labels


# ---------------------------------------------------------------------------- ranks


@pytest.mark.parametrize(("count", "ranks", "fixed"), [(None, 3, 3), (4, 1, 4), (4, 2, 4)])
def test_a_run_fixes_its_number_of_micro_batches(count, ranks, fixed):
    exp = with_micro_batches(experiment(train={"micro_batches": count}), ranks)
    assert exp.train.micro_batches == fixed


def test_ranks_that_do_not_divide_the_micro_batches_are_refused_with_those_that_do():
    with pytest.raises(MtlError, match=r"micro_batches = 12 .* 5 devices.* 1, 2, 3, 4, 6, 12$"):
        with_micro_batches(experiment(train={"micro_batches": 12}), 5)


def test_a_weighting_at_the_features_accepts_no_accumulated_micro_batches():
    exp = experiment(weighting=Fixed(at="features"), train={"micro_batches": 2})
    assert with_micro_batches(exp, 2).train.micro_batches == 2
    with pytest.raises(MtlError, match="Gramian") as error:
        with_micro_batches(exp, 1)
    assert 'weighting.at = "parameters"' in str(error.value)
    assert "train.micro_batches = 1" in str(error.value)


def test_dropout_draws_as_after_torchs_manual_seed():
    state = train_state(experiment(("fer",)))
    state.module = nn.Dropout(0.5)
    drawn = forward(state, torch.ones(64), 2**56 - 1)  # any input: the network is dropout alone
    torch.manual_seed(2**56 - 1)
    assert torch.equal(drawn, nn.functional.dropout(torch.ones(64), 0.5))
