"""Colorization: Lab, soft targets over the cells of the ab plane, images without color."""

from __future__ import annotations

import math

import pytest
import torch
from kornia.color import rgb_to_lab
from mtl_pretexts.colorization import Colorization, ab_cells, lab, mean_ab, spread
from question_toys import (
    alike,
    asked,
    built,
    learned,
    plain_batch,
    setting,
    shown,
    view_of,
)
from toys import batch, counted, prepared_batches, train_state

from mtlcore.training.step import train_step


def gray(n: int = 4, size: int = 32) -> torch.Tensor:
    return alike(n, size)[:, :1].repeat(1, 3, 1, 1)


def test_lab_equals_kornias():
    x = torch.rand(5, 3, 16, 16)
    x[0, :, 0, :2] = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(lab(x), rgb_to_lab(x), atol=1e-4, rtol=0)


def test_red_in_lab():
    """sRGB red is L 53.24, a 80.09, b 67.20 under D65."""
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert lab(red).flatten().tolist() == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


def test_the_input_is_lightness_and_the_target_is_ab_at_a_quarter_of_the_size():
    images = alike(4)
    (view,), ab = asked(Colorization(), images)
    truth = rgb_to_lab(images / 255)
    for channel in range(3):
        torch.testing.assert_close(view.images[:, channel], truth[:, 0] / 100, atol=1e-5, rtol=0)
    assert view.geometry is not None
    assert view.geometry.steps == view_of(images).geometry.steps or len(view.geometry.steps) == 1
    blocks = truth[:, 1:].unfold(2, 4, 4).unfold(3, 4, 4).mean((-2, -1))
    torch.testing.assert_close(ab, blocks, atol=1e-3, rtol=0)


def test_the_target_has_a_quarter_of_any_size_rounded_up():
    for size, quarter in ((32, 8), (33, 9), (48, 12), (3, 1)):
        _, ab = asked(Colorization(), alike(2, size))
        assert ab.shape == (2, 2, quarter, quarter), size


def test_there_are_261_cells_with_gray_among_them_and_every_color_is_near_one():
    cells = ab_cells().flatten(1).T
    assert cells.shape == (261, 2)
    assert bool((cells % 10 == 0).all())
    assert int((cells == 0).all(1).sum()) == 1
    ab = lab(torch.rand(1, 3, 100, 100))[0, 1:].flatten(1).T
    assert float(torch.cdist(ab, cells).min(1).values.max()) <= math.sqrt(50) + 1e-3


def test_a_soft_target_by_hand():
    """Gray is the center of its cell: e^-2 for each of the four neighbors at 10, e^-4 at 14 ..."""
    share = spread(torch.zeros(1, 2, 1, 1), ab_cells()).exp().flatten()
    cells = ab_cells().flatten(1)
    weight = torch.exp(-(cells.square().sum(0)) / 50)
    torch.testing.assert_close(share, weight / weight.sum())
    near = 1 + 4 * math.exp(-2) + 4 * math.exp(-4) + 4 * math.exp(-8) + 8 * math.exp(-10)
    assert float(share.max()) == pytest.approx(1 / near, rel=1e-3)


def test_the_mean_of_a_soft_target_is_its_color():
    ab = lab(0.2 + 0.6 * torch.rand(2, 3, 10, 10))[:, 1:]
    mean = mean_ab(spread(ab, ab_cells()), ab_cells())
    assert float((mean - ab).norm(dim=1).mean()) < 0.5


def test_the_loss_is_0_for_the_ideal_output_and_positive_for_others():
    _, head = built(Colorization())
    _, target = asked(Colorization(), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    assert float(head.loss(head.ideal(target), target).abs().max()) < 1e-5
    assert float(head.loss(head.ideal(target), target.roll(1, 0)).min()) > 0.5
    assert float(head.loss(torch.randn(4, 261, 8, 8), target).min()) > 1.0


def test_the_loss_of_uniform_logits_is_log_261_minus_the_entropy_of_the_target():
    _, head = built(Colorization())
    _, target = asked(Colorization(), alike(3))
    log_p = spread(target, ab_cells())
    entropy = -(log_p.exp() * log_p).sum(1).mean((1, 2))
    loss = head.loss(torch.zeros(3, 261, 8, 8), target)
    torch.testing.assert_close(loss, math.log(261) - entropy, atol=1e-4, rtol=0)


def test_gray_images_have_a_gray_target_and_train_with_finite_losses():
    _, target = asked(Colorization(), gray())
    assert float(target.abs().max()) < 0.05
    state = train_state(setting(Colorization()), optimizer="adamw", lr=1e-2)
    losses = []
    for _ in range(30):
        logged = train_step(state, counted([plain_batch(gray())]))
        assert not bool(logged["skipped"])
        losses.append(float(logged["loss/pretext"]))
    assert losses[-1] < 0.1 < losses[0]
    metrics = Colorization().metrics()
    for metric in metrics.values():
        metric.update(torch.zeros(4, 261, 8, 8), target)
        assert math.isfinite(float(metric.compute()))


def test_the_metrics_of_an_ideal_and_of_a_gray_output():
    task = Colorization()
    _, target = asked(task, torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    _, head = built(task)
    perfect, dull = task.metrics(), task.metrics()
    for name in perfect:
        perfect[name].update(head.ideal(target), target)
        dull[name].update(head.ideal(torch.zeros_like(target)), target)
    assert float(perfect["accuracy"].compute()) == 1.0
    assert float(perfect["ab_error"].compute()) < 0.5
    assert float(dull["ab_error"].compute()) == pytest.approx(
        float(target.norm(dim=1).mean()), abs=1e-3
    )
    inside = (target.abs() < 5).all(1)  # gray's own cell
    assert float(dull["accuracy"].compute()) == pytest.approx(
        float(inside.float().mean()), abs=0.01
    )


def test_supervised_heads_may_read_the_gray_image():
    made = prepared_batches(
        train_state(setting(Colorization(), ("fer",), supervised="pretext")),
        [batch(tasks=("fer",))],
    )[0]
    assert len(made.images) == 1
    assert torch.equal(made.images[0][:, 0], made.images[0][:, 2])


def test_it_learns():
    losses = learned(Colorization(), steps=60, n=8, lr=1e-2)
    assert losses[0] > 3
    assert sum(losses[-5:]) / 5 < 0.8


def test_the_preview_shows_the_right_colors():
    images = alike(6, noise=0.0)
    found = shown(Colorization(), images)
    error = (found["pretext: target"] - images / 255).abs().mean()
    grayed = (found["pretext: view 1 of 1, 32 px"] - images / 255).abs().mean()
    assert float(error) < 0.05 < float(grayed)
