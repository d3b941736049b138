"""BYOL: equation 2, a momentum copy without gradient, no collapse on different images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mtl_pretexts.byol import Byol, ByolHead
from pair_toys import answer, colored, images, losses, run
from refusals import assert_refused
from toys import Toy, prepared_batches

TASK = Byol(hidden=16, width=8)


def test_the_loss_is_the_squared_distance_of_unit_vectors_in_both_directions():
    predicted, target = torch.randn(2, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    q, z = F.normalize(predicted, dim=2), F.normalize(target, dim=2)
    by_hand = (q - z).square().sum(2).sum(1)
    output = {"predicted": predicted, "target": target}
    torch.testing.assert_close(ByolHead.loss(None, output, None), by_hand)
    same, opposite = ({"predicted": predicted, "target": k * predicted} for k in (3.0, -2.0))
    torch.testing.assert_close(ByolHead.loss(None, same, None), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(ByolHead.loss(None, opposite, None), torch.full((5,), 8.0))


def test_the_target_of_each_view_is_the_copys_embedding_of_the_other():
    state = run(TASK)
    state.model.eval()
    head, made = state.model.heads["pretext"], prepared_batches(state, [images()])[0]
    with torch.no_grad():
        found = answer(state, made)
        (head_input,) = made.head_inputs["pretext"]
        a, b = (state.model.encoder(made.images[i]).pooled for i in head_input.images)
    predicted = torch.stack([head.predict(head.project(z)) for z in (a, b)], 1)
    torch.testing.assert_close(found["predicted"], predicted)
    # Before the first step the copy equals the network.
    target = torch.stack([head.project(z) for z in (b, a)], 1)
    torch.testing.assert_close(found["target"], target)


def test_the_copy_gets_no_gradient_and_every_weight_of_the_network_does():
    state = run(TASK)
    state.model(prepared_batches(state, [images()])[0])[0]["pretext"].backward()
    head = state.model.heads["pretext"]
    copied = {id(p) for m in (head.teacher, head.teacher_project) for p in m.parameters()}
    for p in state.model.parameters():
        assert (p.grad is None) is (id(p) in copied)


def test_the_momentum_rises_linearly_to_one():
    state = run(Byol(hidden=4, width=4, momentum=0.9))
    head = state.model.heads["pretext"]
    for progress, rate in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.0)):
        before, source = head.teacher_project.copy[0].weight.clone(), head.project[0].weight
        with torch.no_grad():
            source += 1
        head.teacher_project.update(progress)
        torch.testing.assert_close(
            head.teacher_project.copy[0].weight - before, rate * (source - before)
        )
    assert (head.teacher.momentum, head.teacher.final) == (0.9, 1.0)
    assert Byol().momentum == 0.996


def test_it_does_not_collapse_on_different_images():
    task = Byol(hidden=64, width=32, momentum=0.95)
    state = run(task, optimizer="adamw", lr=1e-3, encoder=Toy(width=8))
    losses(state, 100, n=32)
    state.model.eval()
    with torch.no_grad():
        found = answer(state, prepared_batches(state, [colored(64, seed=999)])[0])
    metrics = task.metrics()
    for metric in metrics.values():
        metric.update(found, None)
    pairs, strangers = (float(metrics[name].compute()) for name in ("pairs", "strangers"))
    assert pairs > 0.9
    assert strangers < 0.6


def test_metrics_are_the_mean_cosines_of_both_directions():
    predicted, target = torch.randn(2, 7, 2, 8, generator=torch.Generator().manual_seed(3))
    metrics = TASK.metrics()
    for metric in metrics.values():
        metric.update({"predicted": predicted, "target": target}, None)
    cosine = F.cosine_similarity(predicted[:, None], target[None], dim=3)  # (7, 7, 2)
    same = torch.eye(7, dtype=torch.bool)
    assert float(metrics["pairs"].compute()) == pytest.approx(float(cosine[same].mean()), abs=1e-5)
    assert float(metrics["strangers"].compute()) == pytest.approx(
        float(cosine[~same].mean()), abs=1e-5
    )


def test_values_out_of_range_are_refused():
    assert_refused(Byol, {"momentum": 1.1}, {"hidden": 0}, {"width": 0})
