"""BYOL: equation 2, a copy that follows and gets no gradient, and no collapse on images that differ."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mtl_pretexts.byol import Byol, ByolHead
from pair_toys import answer, colored, images, losses, run
from toys import Toy, prepared_batches

TASK = Byol(hidden=16, width=8)


def test_the_loss_is_the_squared_distance_of_unit_vectors_in_both_directions():
    said, wanted = torch.randn(2, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    q, z = F.normalize(said, dim=2), F.normalize(wanted, dim=2)
    by_hand = (q - z).square().sum(2).sum(1)
    torch.testing.assert_close(ByolHead.loss(None, {"said": said, "wanted": wanted}, None), by_hand)
    same, opposite = ({"said": said, "wanted": k * said} for k in (3.0, -2.0))
    torch.testing.assert_close(ByolHead.loss(None, same, None), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(ByolHead.loss(None, opposite, None), torch.full((5,), 8.0))


def test_each_view_is_held_against_what_the_copy_says_of_the_other():
    eng = run(TASK)
    eng.model.eval()
    head, made = eng.model.heads["pretext"], prepared_batches(eng, [images()])[0]
    with torch.no_grad():
        found = answer(eng, made)
        a, b = (
            eng.model.encoder(made.images[i]).pooled for i in made.head_inputs["pretext"][0].images
        )
    torch.testing.assert_close(
        found["said"], torch.stack([head.predict(head.project(z)) for z in (a, b)], 1)
    )
    torch.testing.assert_close(
        found["wanted"], torch.stack([head.project(z) for z in (b, a)], 1)
    )  # it starts as a copy


def test_the_copy_gets_no_gradient_and_the_network_all_of_it():
    eng = run(TASK)
    eng.model(prepared_batches(eng, [images()])[0])[0]["pretext"].backward()
    head = eng.model.heads["pretext"]
    copied = {id(p) for m in (head.teacher, head.teacher_project) for p in m.parameters()}
    for p in eng.model.parameters():
        assert (p.grad is None) is (id(p) in copied)


def test_the_momentum_goes_from_its_start_to_one():
    eng = run(Byol(hidden=4, width=4, momentum=0.9))
    head = eng.model.heads["pretext"]
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


def test_it_does_not_collapse_on_images_that_differ():
    task = Byol(hidden=64, width=32, momentum=0.95)
    eng = run(task, optimizer="adamw", lr=1e-3, encoder=Toy(width=8))
    losses(eng, 100, n=32)
    eng.model.eval()
    with torch.no_grad():
        found = answer(eng, prepared_batches(eng, [colored(64, seed=999)])[0])
    metrics = task.metrics()
    for metric in metrics.values():
        metric.update(found, None)
    pairs, strangers = (float(metrics[name].compute()) for name in ("pairs", "strangers"))
    assert pairs > 0.9
    assert strangers < 0.6


def test_metrics_are_the_mean_cosines_of_both_directions():
    said, wanted = torch.randn(2, 7, 2, 8, generator=torch.Generator().manual_seed(3))
    metrics = TASK.metrics()
    for metric in metrics.values():
        metric.update({"said": said, "wanted": wanted}, None)
    cosine = F.cosine_similarity(said[:, None], wanted[None], dim=3)  # (7, 7, 2)
    same = torch.eye(7, dtype=torch.bool)
    assert float(metrics["pairs"].compute()) == pytest.approx(float(cosine[same].mean()), abs=1e-5)
    assert float(metrics["strangers"].compute()) == pytest.approx(
        float(cosine[~same].mean()), abs=1e-5
    )


@pytest.mark.parametrize("fields", [{"momentum": 1.1}, {"hidden": 0}, {"width": 0}])
def test_values_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Byol(**fields)
