"""`train_step` against hand-written loops: sums, micro-batches, absent tasks, bad batches."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn
from toys import (
    EQUAL,
    PCGRAD,
    PRETEXTS,
    UNCERTAINTY,
    Jitter,
    PCGrad,
    Plain,
    Toy,
    batch,
    counted,
    experiment,
    prepared_batches,
    prepared_step,
    train_state,
)

from mtlcore import Batch, MtlError, component
from mtlcore.contracts import PreparedBatch
from mtlcore.training.step import train_step

SETS = [(p,) for p in PRETEXTS] + [(), ("barlow", "byol", "rotation"), tuple(PRETEXTS)]


def finite_steps(exp, batches_of, steps: int = 2):
    """Take steps that must stay finite. batches_of: step -> its micro-batches."""
    state = train_state(exp)
    for k in range(steps):
        logged = train_step(state, counted(batches_of(k)))
        assert not bool(logged["skipped"])
        assert all(bool(torch.isfinite(v.float()).all()) for v in logged.values())
    assert all(bool(torch.isfinite(p).all()) for p in state.model.parameters())
    return state, logged


def ruined(prepared: PreparedBatch) -> PreparedBatch:
    """The same batch with NaN images: a bad step."""
    images = tuple(x * float("nan") for x in prepared.images)
    return PreparedBatch(images, prepared.head_inputs, prepared.scale)


POLICIES = list(itertools.product(("joint", "split"), ("pretext", "clean", "both")))
FAST = {("joint", "both")}  # each takes seconds


@pytest.mark.parametrize(
    ("forward", "supervised"),
    [pytest.param(*p, marks=() if p in FAST else pytest.mark.slow) for p in POLICIES],
)
def test_every_pretext_trains_under_every_view_policy(forward, supervised):
    for pretexts, reduce in itertools.product(SETS, ("mean", "geometric")):
        if supervised == "pretext" and pretexts in ((), ("patches",)):
            continue  # there is no view that supervised heads could read
        exp = experiment(pretexts=pretexts, forward=forward, supervised=supervised, reduce=reduce)
        finite_steps(exp, lambda k: [batch(seed=k)])


@pytest.mark.parametrize("weighting", [EQUAL, UNCERTAINTY, PCGRAD])
@pytest.mark.parametrize("absent", [(), ("pose",), ("fer", "gender", "pose", "parsing")])
def test_every_weighting_trains_with_micro_batches_and_absent_tasks(weighting, absent):
    for micro, forward in itertools.product((1, 2), ("joint", "split")):
        exp = experiment(
            pretexts=("puzzle_spatial", "inpainting", "barlow", "fixmatch"),
            weighting=weighting,
            forward=forward,
            supervised="both",
        )
        finite_steps(
            exp,
            lambda k, micro=micro: [batch(seed=10 * k + m, absent=absent) for m in range(micro)],
        )


def test_a_supervised_run_equals_a_hand_written_loop():
    exp = experiment(tasks=("fer", "gender"), augment=Plain())
    state = train_state(exp, lr=1e-2)
    model = copy.deepcopy(state.model)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9)
    for k in range(5):
        b = batch(seed=k, size=32, tasks=("fer", "gender"))
        logged = train_step(state, counted([b]))
        n = b.labeled_samples  # samples without any label are never encoded
        features = model.encoder(b.images[:n].float() / 255)
        i, j = b.present["fer"][:n], b.present["gender"][:n]
        fer = F.cross_entropy(model.heads["fer"](features)[i], b.targets["fer"][:n][i])
        gender = F.cross_entropy(model.heads["gender"](features)[j], b.targets["gender"][:n][j])
        optimizer.zero_grad()
        (fer + gender).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        torch.testing.assert_close(logged["loss/fer"], fer.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            list(model.parameters()), list(state.model.parameters()), atol=1e-6, rtol=0
        )


def test_puzzling_on_one_view_equals_a_hand_written_loss():
    exp = experiment(
        tasks=("fer",),
        pretexts=("puzzle_spatial",),
        augment=Plain(),
        size=32,
        weights={"puzzle_spatial": 0.3},
        supervised="pretext",
    )
    state = train_state(exp)
    model, b = copy.deepcopy(state.model), batch(size=32, tasks=("fer",))
    made = prepared_batches(state, [b])
    order = made[0].head_inputs["puzzle_spatial"][0].targets[0][0]["tile"][:, 0]
    x, puzzled = b.images.float() / 255, torch.zeros(6, 3, 32, 32)
    for n, p in itertools.product(range(6), range(4)):
        t = int(order[n, p])
        tile = x[n, :, t // 2 * 16 : t // 2 * 16 + 16, t % 2 * 16 : t % 2 * 16 + 16]
        puzzled[n, :, p // 2 * 16 : p // 2 * 16 + 16, p % 2 * 16 : p % 2 * 16 + 16] = tile
    assert torch.equal(puzzled, made[0].images[0])
    assert len(made[0].images) == 1
    features, i = model.encoder(puzzled), b.present["fer"]
    fer = F.cross_entropy(model.heads["fer"](features)[i], b.targets["fer"][i])
    scores = F.adaptive_avg_pool2d(
        model.heads["puzzle_spatial"].answer(features.maps[-1]), 2
    ).flatten(2)
    puzzle = F.cross_entropy(scores, order)
    logged = prepared_step(state, made)
    torch.testing.assert_close(logged["loss/fer"], fer.detach())
    torch.testing.assert_close(logged["loss/puzzle_spatial"], puzzle.detach())
    (fer + 0.3 * puzzle).backward()
    torch.testing.assert_close(
        logged["grad_norm"], nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    )


def test_datasets_with_different_labels_give_each_loss_its_own_mean():
    b = batch(n=10, size=32, unlabeled=0, tasks=("fer", "pose"))
    first = torch.arange(10) < 5
    b = counted([evolve(b, present={"pose": first, "fer": ~first})])[0]
    for weighting in (EQUAL, UNCERTAINTY, PCGRAD):
        exp = experiment(
            ("fer", "pose"),
            ("location",),
            augment=Plain(),
            encoder=Toy(norm="none"),
            weighting=weighting,
        )
        state = train_state(exp)
        features = state.model.encoder(b.images.float() / 255)
        heads = state.model.heads
        fer = F.cross_entropy(heads["fer"](features)[5:], b.targets["fer"][5:])
        pose = heads["pose"].loss(heads["pose"](features)[:5], b.targets["pose"][:5]).mean()
        logged = train_step(state, counted([b]))
        torch.testing.assert_close(logged["loss/fer"], fer.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(logged["loss/pose"], pose.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("weighting", [EQUAL, UNCERTAINTY, PCGRAD])
def test_two_micro_batches_of_the_same_inputs_equal_the_joined_batch(weighting):
    exp = experiment(
        pretexts=("puzzle_pooled", "inpainting", "byol", "fixmatch"),
        weighting=weighting,
        encoder=Toy(norm="none"),
    )
    puzzle = exp.pretexts["puzzle_pooled"]
    without_dropout = evolve(puzzle, component=evolve(puzzle.component, dropout=0.0))
    exp = evolve(exp, pretexts=exp.pretexts | {"puzzle_pooled": without_dropout})
    one, two = train_state(exp, lr=0.1), train_state(exp, lr=0.1)
    full = prepared_batches(one, [batch(n=8)])[0]
    # All image batches get 8 samples, so that they can be cut.
    images = tuple(x if len(x) == 8 else torch.cat([x, x[:1]]) for x in full.images)
    pretexts_only = {k: r for k, r in full.head_inputs.items() if k not in exp.tasks}
    full = evolve(full, images=images, head_inputs=pretexts_only)
    logged = prepared_step(one, [full])
    again = prepared_step(two, [full.cut(slice(0, 5), 2), full.cut(slice(5, 8), 2)])
    torch.testing.assert_close(
        list(one.model.parameters()), list(two.model.parameters()), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        list(one.loss_weighting.parameters()),
        list(two.loss_weighting.parameters()),
        atol=1e-6,
        rtol=0,
    )
    for key, value in logged.items():
        if key.startswith("loss"):
            torch.testing.assert_close(value, again[key])


def test_micro_batches_that_are_prepared_one_by_one_equal_the_whole_batch():
    """As in a run. The augmentations draw nothing, so both ways see the same images."""
    halves = [batch(n=6, size=32, seed=s, unlabeled=2) for s in (1, 2)]
    order = [0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11]  # labeled samples first
    images = torch.cat([b.images for b in halves])[order]
    targets, present = {}, {}
    for label in halves[0].targets:
        targets[label] = torch.cat([b.targets[label] for b in halves])[order]
        present[label] = torch.cat([b.present[label] for b in halves])[order]
    joined = Batch(images, targets, present, halves[0].counts, 8)
    for weighting in (EQUAL, PCGRAD):
        exp = experiment(
            pretexts=("fixmatch",),
            entries={"fixmatch": {"samples": "unlabeled"}},
            weighting=weighting,
            encoder=Toy(norm="none"),
            augment=Plain(),
        )
        exp = evolve(exp, augmentations=dict.fromkeys(exp.augmentations, Plain()))
        one, two = train_state(exp, lr=0.1), train_state(exp, lr=0.1)
        train_step(one, counted([joined]))
        train_step(two, counted(halves))
        torch.testing.assert_close(
            list(one.model.parameters()), list(two.model.parameters()), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_head_of_an_absent_task_does_not_move(optimizer):
    state = train_state(experiment(pretexts=("inpainting",)), optimizer)
    train_step(state, counted([batch()]))
    before = copy.deepcopy(state.model.heads["pose"].state_dict())
    train_step(state, counted([batch(absent=("pose",))]))
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), state.model.heads["pose"].state_dict().values())
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_label_can_be_absent_from_the_first_step(optimizer):
    state = train_state(experiment(), optimizer)
    for absent in (("pose",), (), ("fer",), ()):
        logged = train_step(state, counted([batch(absent=absent)]))
        assert not bool(logged["skipped"])
    assert all(bool(torch.isfinite(p).all()) for p in state.model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_bad_first_step_has_no_effect(optimizer):
    exp = experiment(("fer",), encoder=Toy(norm="none"), augment=Plain())
    bad_first, fresh = train_state(exp, optimizer), train_state(exp, optimizer)
    made = prepared_batches(fresh, [batch(tasks=("fer",))])[0]
    prepared_step(bad_first, [ruined(made)])
    for state in (bad_first, fresh):
        for _ in range(2):
            prepared_step(state, [made])
    torch.testing.assert_close(list(bad_first.model.parameters()), list(fresh.model.parameters()))


class Remembers(torch.nn.Module):
    """A weighting with a buffer, and with a random draw."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(()))
        self.drawn = []

    def forward(self, losses):
        self.last.copy_(losses.values.detach().sum())
        self.drawn.append(float(losses.rng.rand()))
        return losses.values.sum()


def test_a_bad_batch_does_not_change_a_weighting_and_micro_batches_share_its_draw():
    state = train_state(experiment())
    state.loss_weighting = Remembers()
    micro_batches = prepared_batches(state, [batch(seed=1), batch(seed=2)])
    prepared_step(state, micro_batches)
    assert state.loss_weighting.drawn[0] == state.loss_weighting.drawn[1]
    before = state.loss_weighting.last.clone()
    prepared_step(state, [ruined(micro_batches[0])])
    assert torch.equal(state.loss_weighting.last, before)
    assert state.loss_weighting.drawn[2] != state.loss_weighting.drawn[0]


@pytest.mark.parametrize("weighting", [EQUAL, UNCERTAINTY, PCGRAD])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_bad_batch_changes_nothing_and_is_counted(weighting, optimizer):
    state = train_state(experiment(pretexts=("inpainting", "byol"), weighting=weighting), optimizer)
    train_step(state, counted([batch()]))
    before = copy.deepcopy(state.model.state_dict() | state.loss_weighting.state_dict())
    made = prepared_batches(state, [batch()])[0]
    logged = prepared_step(state, [ruined(made)])
    assert bool(logged["skipped"])
    after = state.model.state_dict() | state.loss_weighting.state_dict()
    assert [k for k, v in after.items() if not torch.equal(v, before[k])] == []
    assert not bool(train_step(state, counted([batch()]))["skipped"])


def test_pcgrad_at_the_parameters_equals_projection_by_hand():
    """On the (K, P) matrix. A shared head is part of it; another head gets its own gradient."""
    names = ("fer", "pose", "rotation", "fixmatch")
    exp = experiment(
        names[:2],
        names[2:],
        encoder=Toy(norm="none"),
        weights={"rotation": 0.5},
        weighting=PCGRAD,
        weight_decay=0.0,
    )
    state = train_state(exp, lr=1.0)
    made = prepared_batches(state, [batch(n=8, unlabeled=3, tasks=("fer", "pose"))])[0]
    model = copy.deepcopy(state.model)
    losses, _ = model(made)
    shared = [*model.encoder.parameters(), *model.heads["fer"].parameters()]
    rows = []
    for name in names:
        gradients = torch.autograd.grad(
            losses[name], shared, retain_graph=True, materialize_grads=True
        )
        rows.append(exp.entries[name].weight * torch.cat([g.flatten() for g in gradients]))
    expected = torch.stack(rows)
    for k, j in itertools.product(range(4), range(4)):
        if j != k:
            conflict = (expected[k] @ rows[j]).clamp_max(0)
            expected[k] -= conflict / (rows[j] @ rows[j]) * rows[j]
    (own,) = torch.autograd.grad(0.5 * losses["rotation"], model.heads["rotation"].answer.weight)
    logged = prepared_step(state, [made])
    clip = min(1.0, 5.0 / (float(logged["grad_norm"]) + 1e-6))
    now = [*state.model.encoder.parameters(), *state.model.heads["fer"].parameters()]
    moved = torch.cat([(p - q).flatten() for p, q in zip(shared, now)])
    torch.testing.assert_close(moved, clip * expected.sum(0), atol=1e-5, rtol=0)
    head = model.heads["rotation"].answer.weight - state.model.heads["rotation"].answer.weight
    torch.testing.assert_close(head, clip * own, atol=1e-5, rtol=0)


def test_weighting_at_the_features_equals_its_gramian_by_hand():
    exp = experiment(
        ("fer", "gender"),
        ("location",),
        encoder=Toy(norm="none"),
        weighting=PCGrad(at="features"),
        augment=Plain(),
    )
    state = train_state(exp)
    made = prepared_batches(state, [batch(tasks=("fer", "gender"), unlabeled=0)])[0]
    losses, gram = state.model(made)
    features, trunk = state.model.encode(made)
    rows = []
    for label, outputs in state.model.forward_heads(features, made).items():
        loss = state.model.compute_losses(label, outputs, made)
        (gradient,) = torch.autograd.grad(loss, trunk, retain_graph=True)
        rows.append(gradient.flatten())
    rows = torch.stack(rows)
    torch.testing.assert_close(gram, rows @ rows.T)
    assert not bool(prepared_step(state, [made])["skipped"])
    assert list(losses) == ["fer", "gender", "location"]


def test_weighting_at_the_features_is_refused_where_heads_read_different_images():
    exp = experiment(("fer",), ("rotation",), weighting=PCGrad(at="features"))
    with pytest.raises(MtlError, match="features") as error:
        prepared_batches(train_state(exp), [batch(tasks=("fer",))])
    assert "parameters" in str(error.value)


def test_controls_show_the_same_images_without_the_loss_or_with_permuted_targets():
    b, seen = batch(n=8, unlabeled=0), []
    for control in ("none", "views_only", "random_target"):
        entries = {"inpainting": {"control": control}}
        state = train_state(
            experiment(pretexts=("inpainting",), supervised="both", entries=entries)
        )
        encoded: list[int] = []
        state.model.encoder.register_forward_hook(
            lambda module, inputs, output, encoded=encoded: encoded.append(len(inputs[0]))
        )
        decoder = state.model.heads["inpainting"].decoder
        before = copy.deepcopy(decoder.state_dict())
        made = prepared_batches(state, [b])[0]
        logged = prepared_step(state, [made])
        unchanged = all(torch.equal(v, before[k]) for k, v in decoder.state_dict().items())
        seen.append((encoded, made, logged, unchanged))
    (encoded, real, logged, unchanged), off, permuted = seen
    assert encoded == off[0] == permuted[0]
    assert (unchanged, off[3]) == (False, True)
    for images, images_off, images_permuted in zip(real.images, off[1].images, permuted[1].images):
        assert torch.equal(images, images_off)
        assert torch.equal(images, images_permuted)
    assert all(torch.equal(logged[k], v) for k, v in off[2].items() if k.startswith("loss"))
    true, false = (x.head_inputs["inpainting"][0].targets[0][0] for x in (real, permuted[1]))
    assert torch.equal(true["mask"], false["mask"])
    assert not torch.equal(true["images"], false["images"])


def test_a_random_target_is_refused_where_there_is_none():
    state = train_state(
        experiment(pretexts=("byol",), entries={"byol": {"control": "random_target"}})
    )
    with pytest.raises(MtlError, match="views_only"):
        prepared_batches(state, [batch()])


def test_the_optimizer_never_sees_momentum_copies_and_the_step_updates_them():
    state = train_state(experiment(pretexts=("byol", "inpainting")))
    optimized = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    copies = [p for ema in state.model.followers for p in ema.copy.parameters()]
    before = [p.clone() for p in copies]
    train_step(state, counted([batch()]))
    assert optimized.isdisjoint(id(p) for p in copies)
    assert any(not torch.equal(a, b) for a, b in zip(before, copies))


def test_bf16_autocast_trains_and_keeps_losses_in_fp32():
    for weighting in (EQUAL, PCGRAD):
        _, logged = finite_steps(
            experiment(
                pretexts=("inpainting", "byol", "puzzle_pooled"),
                weighting=weighting,
                train={"precision": "bf16-mixed"},
            ),
            lambda k: [batch(seed=k)],
        )
        assert all(v.dtype == torch.float32 for k, v in logged.items() if k.startswith("loss"))


def test_16_mixed_clips_the_unscaled_gradient_with_every_optimizer():
    """Fabric refuses to clip with a fused optimizer under a GradScaler, so the core unscales."""
    for optimizer in ("sgd", "adamw", component("optimizer", "torch:RMSprop")):
        exp = experiment(pretexts=("puzzle_pooled",), train={"clip": 1e-3})
        plain = train_state(exp, optimizer, 1e-3)
        scaled = train_state(exp, optimizer, 1e-3)
        # On a CPU, autocast to fp16 is slow or missing: the scaling of gradients alone is tested.
        strategy, scaler = scaled.fabric.strategy, torch.amp.GradScaler("cpu", 1024.0)
        precision = MixedPrecision("16-mixed", "cpu", scaler)
        precision.forward_context = nullcontext
        strategy._precision = precision
        scaled.experiment = evolve(exp, train=evolve(exp.train, precision="16-mixed"))
        for k in range(3):
            norms = [train_step(s, counted([batch(seed=k)]))["grad_norm"] for s in (plain, scaled)]
            torch.testing.assert_close(*norms, rtol=1e-5, atol=0.0)
        pairs = zip(plain.model.parameters(), scaled.model.parameters())
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs)
        weights = [p.clone() for p in scaled.model.parameters()]
        made = prepared_batches(scaled, [batch()])[0]
        logged = prepared_step(scaled, [ruined(made)])
        assert bool(logged["skipped"])
        assert all(torch.equal(a, b) for a, b in zip(weights, scaled.model.parameters()))


def test_a_run_with_jitter_repeats_its_steps():
    """Two runs of one seed take bit-equal steps, whatever the state of the global generator."""
    exp = experiment(pretexts=("puzzle_pooled", "rotation"), augment=Jitter())
    results = []
    for _ in range(2):
        torch.manual_seed(torch.seed() % 1000)
        state = train_state(exp)
        for k in range(3):
            train_step(state, counted([batch(seed=k)]))
        results.append(state.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))
