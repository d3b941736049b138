"""The step against hand-written trainers: sums, micro-batches, absent tasks, bad batches, controls."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
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
    train_state,
)

from mtlcore import Batch, MtlError
from mtlcore.contracts import PreparedBatch
from mtlcore.train.step import train_step

SETS = [(p,) for p in PRETEXTS] + [(), ("barlow", "byol", "rotation"), tuple(PRETEXTS)]


def finite_steps(exp, parts_of, steps: int = 2):
    eng = train_state(exp)
    for k in range(steps):
        logged = train_step(eng, prepared_batches(eng, parts_of(k)))
        assert not bool(logged["skipped"])
        assert all(bool(torch.isfinite(v.float()).all()) for v in logged.values())
    assert all(bool(torch.isfinite(p).all()) for p in eng.model.parameters())
    return eng, logged


@pytest.mark.parametrize("supervised", ["pretext", "clean", "both"])
@pytest.mark.parametrize("forward", ["joint", "split"])
def test_every_pretext_trains_under_every_view_policy(forward, supervised):
    for pretexts, reduce in itertools.product(SETS, ("mean", "geometric")):
        if supervised == "pretext" and pretexts in (
            (),
            ("patches",),
        ):  # nothing that supervised heads could read
            continue
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
    eng = train_state(exp, lr=1e-2)
    model = copy.deepcopy(eng.model)
    optimizer = torch.optim.SGD(
        [
            {
                "params": [p for p in model.parameters() if (p.ndim > 1) == wide],
                "weight_decay": 0.05 * wide,
            }
            for wide in (1, 0)
        ],
        lr=1e-2,
        momentum=0.9,
    )
    for k in range(5):
        b = batch(seed=k, size=32, tasks=("fer", "gender"))
        logged = train_step(eng, prepared_batches(eng, [b]))
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
            list(model.parameters()), list(eng.model.parameters()), atol=1e-6, rtol=0
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
    eng = train_state(exp)
    model, b = copy.deepcopy(eng.model), batch(size=32, tasks=("fer",))
    made = prepared_batches(eng, [b])
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
    logged = train_step(eng, made)
    torch.testing.assert_close(logged["loss/fer"], fer.detach())
    torch.testing.assert_close(logged["loss/puzzle_spatial"], puzzle.detach())
    (fer + 0.3 * puzzle).backward()
    torch.testing.assert_close(
        logged["grad_norm"], nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    )


def test_rows_of_two_sources_with_different_labels_give_each_loss_its_own_mean():
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
        eng = train_state(exp)
        features = eng.model.encoder(b.images.float() / 255)
        heads = eng.model.heads
        fer = F.cross_entropy(heads["fer"](features)[5:], b.targets["fer"][5:])
        pose = heads["pose"].loss(heads["pose"](features)[:5], b.targets["pose"][:5]).mean()
        logged = train_step(eng, prepared_batches(eng, [b]))
        torch.testing.assert_close(logged["loss/fer"], fer.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(logged["loss/pose"], pose.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("weighting", [EQUAL, UNCERTAINTY, PCGRAD])
def test_two_micro_batches_of_the_same_inputs_equal_the_joined_batch(weighting):
    exp = experiment(
        pretexts=("puzzle_pooled", "inpainting", "byol", "fixmatch"),
        weighting=weighting,
        encoder=Toy(norm="none"),
    )
    exp = evolve(
        exp,
        pretexts={
            k: evolve(e, component=evolve(e.component, dropout=0.0)) if k == "puzzle_pooled" else e
            for k, e in exp.pretexts.items()
        },
    )
    one, two = train_state(exp, lr=0.1), train_state(exp, lr=0.1)
    full = prepared_batches(one, [batch(n=8)])[0]
    full = evolve(
        full, images=tuple(x if len(x) == 8 else torch.cat([x, x[:1]]) for x in full.images)
    )
    full = evolve(
        full, head_inputs={k: r for k, r in full.head_inputs.items() if k not in exp.tasks}
    )
    logged = train_step(one, [full])
    again = train_step(two, [full.cut(slice(0, 5), 2), full.cut(slice(5, 8), 2)])
    torch.testing.assert_close(
        list(one.model.parameters()), list(two.model.parameters()), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        list(one.loss_weighting.parameters()),
        list(two.loss_weighting.parameters()),
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        {k: v for k, v in logged.items() if k.startswith("loss")},
        {k: v for k, v in again.items() if k.startswith("loss")},
    )


def test_parts_prepared_apart_equal_the_joined_batch():
    """The real path: each micro_batch is prepared by itself; augmentations that draw nothing, so both ways see the same images."""
    halves = [batch(n=6, size=32, seed=s, unlabeled=2) for s in (1, 2)]
    order = [0, 1, 2, 3, 6, 7, 8, 9, 4, 5, 10, 11]  # labeled rows first
    joined = Batch(
        torch.cat([b.images for b in halves])[order],
        *(
            {k: torch.cat([getattr(b, f)[k] for b in halves])[order] for k in halves[0].targets}
            for f in ("targets", "present")
        ),
        halves[0].counts,
        8,
    )
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
        train_step(one, prepared_batches(one, [joined]))
        train_step(two, prepared_batches(two, halves))
        torch.testing.assert_close(
            list(one.model.parameters()), list(two.model.parameters()), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_head_of_an_absent_task_does_not_move(optimizer):
    eng = train_state(experiment(pretexts=("inpainting",)), optimizer)
    train_step(eng, prepared_batches(eng, [batch()]))
    before = copy.deepcopy(eng.model.heads["pose"].state_dict())
    train_step(eng, prepared_batches(eng, [batch(absent=("pose",))]))
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), eng.model.heads["pose"].state_dict().values())
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_label_may_be_absent_from_the_first_step(optimizer):
    eng = train_state(experiment(), optimizer)
    for absent in (("pose",), (), ("fer",), ()):
        logged = train_step(eng, prepared_batches(eng, [batch(absent=absent)]))
        assert not bool(logged["skipped"])
    assert all(bool(torch.isfinite(p).all()) for p in eng.model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_bad_first_step_is_as_if_it_had_not_been(optimizer):
    exp = experiment(("fer",), encoder=Toy(norm="none"), augment=Plain())
    bad_first, fresh = train_state(exp, optimizer), train_state(exp, optimizer)
    made = prepared_batches(fresh, [batch(tasks=("fer",))])[0]
    train_step(
        bad_first,
        [PreparedBatch(tuple(x * float("nan") for x in made.images), made.head_inputs, made.scale)],
    )
    for eng in (bad_first, fresh):
        for _ in range(2):
            train_step(eng, [made])
    torch.testing.assert_close(list(bad_first.model.parameters()), list(fresh.model.parameters()))


class Remembers(torch.nn.Module):
    """A weighting with a state of its own, which also draws."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(()))
        self.drawn = []

    def forward(self, losses):
        self.last.copy_(losses.values.detach().sum())
        self.drawn.append(float(losses.rng.rand()))
        return losses.values.sum()


def test_a_bad_batch_leaves_no_trace_in_a_weighting_and_micro_batches_share_its_draw():
    eng = train_state(experiment())
    eng.loss_weighting = Remembers()
    micro_batches = prepared_batches(eng, [batch(seed=1), batch(seed=2)])
    train_step(eng, micro_batches)
    assert eng.loss_weighting.drawn[0] == eng.loss_weighting.drawn[1]
    before = eng.loss_weighting.last.clone()
    train_step(
        eng,
        [
            PreparedBatch(
                tuple(x * float("nan") for x in micro_batches[0].images),
                micro_batches[0].head_inputs,
                micro_batches[0].scale,
            )
        ],
    )
    assert torch.equal(eng.loss_weighting.last, before)
    assert eng.loss_weighting.drawn[2] != eng.loss_weighting.drawn[0]


@pytest.mark.parametrize("weighting", [EQUAL, UNCERTAINTY, PCGRAD])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_bad_batch_changes_nothing_and_is_counted(weighting, optimizer):
    eng = train_state(experiment(pretexts=("inpainting", "byol"), weighting=weighting), optimizer)
    train_step(eng, prepared_batches(eng, [batch()]))
    before = copy.deepcopy(eng.model.state_dict() | eng.loss_weighting.state_dict())
    made = prepared_batches(eng, [batch()])[0]
    logged = train_step(
        eng,
        [PreparedBatch(tuple(x * float("nan") for x in made.images), made.head_inputs, made.scale)],
    )
    assert bool(logged["skipped"])
    after = eng.model.state_dict() | eng.loss_weighting.state_dict()
    assert [k for k, v in after.items() if not torch.equal(v, before[k])] == []
    assert not bool(train_step(eng, prepared_batches(eng, [batch()]))["skipped"])


def test_pcgrad_at_the_parameters_equals_projection_by_hand():
    """On the K x P matrix; an unshared head gets its own gradient, a shared head lies among the shared parameters."""
    names = ("fer", "pose", "rotation", "fixmatch")
    exp = experiment(
        names[:2],
        names[2:],
        encoder=Toy(norm="none"),
        weights={"rotation": 0.5},
        weighting=PCGRAD,
        weight_decay=0.0,
    )
    eng = train_state(exp, lr=1.0)
    made = prepared_batches(eng, [batch(n=8, unlabeled=3, tasks=("fer", "pose"))])[0]
    model = copy.deepcopy(eng.model)
    losses, _ = model(made)
    shared = [*model.encoder.parameters(), *model.heads["fer"].parameters()]
    rows = torch.stack(
        [
            exp.entries[k].weight
            * torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        losses[k], shared, retain_graph=True, materialize_grads=True
                    )
                ]
            )
            for k in names
        ]
    )
    wanted = rows.clone()
    for k, j in itertools.product(range(4), range(4)):
        if j != k:
            wanted[k] -= (wanted[k] @ rows[j]).clamp_max(0) / (rows[j] @ rows[j]) * rows[j]
    (own,) = torch.autograd.grad(0.5 * losses["rotation"], model.heads["rotation"].answer.weight)
    logged = train_step(eng, [made])
    clip = min(1.0, 5.0 / (float(logged["grad_norm"]) + 1e-6))
    now = [*eng.model.encoder.parameters(), *eng.model.heads["fer"].parameters()]
    moved = torch.cat([(p - q).flatten() for p, q in zip(shared, now)])
    torch.testing.assert_close(moved, clip * wanted.sum(0), atol=1e-5, rtol=0)
    head = model.heads["rotation"].answer.weight - eng.model.heads["rotation"].answer.weight
    torch.testing.assert_close(head, clip * own, atol=1e-5, rtol=0)


def test_weighting_at_the_features_equals_its_gramian_by_hand():
    exp = experiment(
        ("fer", "gender"),
        ("location",),
        encoder=Toy(norm="none"),
        weighting=PCGrad(at="features"),
        augment=Plain(),
    )
    eng = train_state(exp)
    made = prepared_batches(eng, [batch(tasks=("fer", "gender"), unlabeled=0)])[0]
    losses, gram = eng.model(made)
    features, trunk = eng.model.encode(made)
    again = {
        k: eng.model.compute_losses(k, o, made)
        for k, o in eng.model.forward_heads(features, made).items()
    }
    rows = torch.stack(
        [
            torch.autograd.grad(loss, trunk, retain_graph=True)[0].flatten()
            for loss in again.values()
        ]
    )
    torch.testing.assert_close(gram, rows @ rows.T)
    assert not bool(train_step(eng, [made])["skipped"])
    assert list(losses) == ["fer", "gender", "location"]


def test_weighting_at_the_features_is_refused_where_heads_read_different_images():
    exp = experiment(("fer",), ("rotation",), weighting=PCGrad(at="features"))
    with pytest.raises(MtlError, match="features") as told:
        prepared_batches(train_state(exp), [batch(tasks=("fer",))])
    assert "parameters" in str(told.value)


def test_controls_show_the_same_images_with_the_loss_off_or_the_answers_permuted():
    b, seen = batch(n=8, unlabeled=0), []
    for control in ("none", "views_only", "random_target"):
        eng = train_state(
            experiment(
                pretexts=("inpainting",),
                supervised="both",
                entries={"inpainting": {"control": control}},
            )
        )
        rows: list[int] = []
        eng.model.encoder.register_forward_hook(lambda m, i, o, rows=rows: rows.append(len(i[0])))
        head = copy.deepcopy(eng.model.heads["inpainting"].decoder.state_dict())
        made = prepared_batches(eng, [b])[0]
        logged = train_step(eng, [made])
        rested = all(
            torch.equal(x, y)
            for x, y in zip(
                head.values(), eng.model.heads["inpainting"].decoder.state_dict().values()
            )
        )
        seen.append((rows, made, logged, rested))
    (rows, real, logged, rested), (rows1, quiet, logged1, rested1), (rows2, random, _, _) = seen
    assert rows == rows1 == rows2
    assert (rested, rested1) == (False, True)
    assert all(
        torch.equal(x, y) and torch.equal(x, z)
        for x, y, z in zip(real.images, quiet.images, random.images)
    )
    assert all(torch.equal(logged[k], v) for k, v in logged1.items() if k.startswith("loss"))
    true, false = (i.head_inputs["inpainting"][0].targets[0][0] for i in (real, random))
    assert torch.equal(true["mask"], false["mask"])
    assert not torch.equal(true["images"], false["images"])


def test_a_random_target_is_refused_where_there_is_none():
    eng = train_state(
        experiment(pretexts=("byol",), entries={"byol": {"control": "random_target"}})
    )
    with pytest.raises(MtlError, match="views_only"):
        prepared_batches(eng, [batch()])


def test_the_optimizer_never_sees_momentum_copies_and_the_step_updates_them():
    eng = train_state(experiment(pretexts=("byol", "inpainting")))
    optimized = {id(p) for group in eng.optimizer.param_groups for p in group["params"]}
    copies = [p for ema in eng.model.followers() for p in ema.copy.parameters()]
    before = [p.clone() for p in copies]
    train_step(eng, prepared_batches(eng, [batch()]))
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


def test_a_jittered_run_draws_the_same_step_again():
    """Two train_states of one seed take bit-equal steps; nothing is drawn from the global generator but dropout's seed."""
    exp = experiment(pretexts=("puzzle_pooled", "rotation"), augment=Jitter())
    results = []
    for _ in range(2):
        torch.manual_seed(torch.seed() % 1000)
        eng = train_state(exp)
        for k in range(3):
            train_step(eng, prepared_batches(eng, [batch(seed=k)]))
        results.append(eng.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(results[0].values(), results[1].values()))
