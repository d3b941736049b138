"""Local rotation: one square turns in place; dense labels follow, rigid ones do not move."""

from __future__ import annotations

import math

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts.local_rotation import LocalRotation, any_square, quadrant, turn_square
from question_toys import (
    alike,
    asked,
    built,
    learned,
    ramp,
    setting,
    shown,
    view_of,
)
from toys import batch, key, prepared_batches, prepared_step, train_state

BOTH = [LocalRotation(), LocalRotation(variant="implicit")]


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 2**31))
def test_a_square_of_any_size_and_place_turns_as_rot90_and_the_rest_stays(size, turns, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 2, 9, 11, generator=g)
    top = int(torch.randint(10 - size, (), generator=g))
    left = int(torch.randint(12 - size, (), generator=g))
    expected = x.clone()
    square = x[..., top : top + size, left : left + size]
    expected[..., top : top + size, left : left + size] = square.rot90(turns, (-2, -1))
    found = turn_square(torch.tensor([[top, left, size]]), torch.tensor([turns]), x)
    assert torch.equal(found, expected)


def test_squares_of_different_sizes_turn_at_once():
    x = torch.rand(3, 1, 6, 6)
    boxes, turns = torch.tensor([[0, 0, 6], [2, 1, 3], [5, 5, 1]]), torch.tensor([1, 2, 3])
    alone = [turn_square(boxes[i : i + 1], turns[i : i + 1], x[i : i + 1]) for i in range(3)]
    assert torch.equal(turn_square(boxes, turns, x), torch.cat(alone))


def test_quadrants_are_in_the_corners_in_reading_order():
    for size, last in ((32, 16), (33, 17)):
        found = quadrant(torch.arange(4), torch.zeros(4, 3, size, size)).tolist()
        assert found == [[0, 0, 16], [0, last, 16], [last, 0, 16], [last, last, 16]]


def test_any_square_is_inside_and_has_all_sizes():
    boxes = any_square(torch.zeros(5000, 3, 32, 32), key()("draw"))
    top, left, size = boxes.unbind(1)
    assert (int(size.min()), int(size.max())) == (8, 24)
    assert int(top.min()) == int(left.min()) == 0
    assert int((top + size).max()) == int((left + size).max()) == 32


@pytest.mark.parametrize("task", BOTH)
def test_undo_inverts_the_view_bit_for_bit(task):
    for size in (31, 32):
        images = alike(32, size)
        (view,), target = asked(task, images)
        assert torch.equal(task.undo(view.images, target), images / 255)
        assert not torch.equal(view.images, images / 255)


@pytest.mark.parametrize("task", BOTH)
def test_maps_follow_the_pixels_and_the_matrix_does_not_move(task):
    images = alike(16)
    (view,), _ = asked(task, images)
    assert torch.equal(view.geometry.matrix, view_of(images).geometry.matrix)
    x, y = (view.geometry.warp(ramp(16, 32)) - 0.5).long().unbind(1)
    samples = torch.arange(16)[:, None, None]
    assert torch.equal(view.images, (images / 255)[samples, :, y, x].movedim(-1, 1))


def test_the_supervised_heads_read_the_turned_image_without_another_forward():
    exp = setting(LocalRotation(), ("fer", "pose", "parsing"), supervised="pretext")
    state = train_state(exp)
    b = batch(size=32, tasks=("fer", "pose", "parsing"), unlabeled=0)
    made = prepared_batches(state, [b])[0]
    assert len(made.images) == 1
    assert torch.equal(made.head_inputs["pose"][0].targets[0][0], b.targets["pose"])
    raw = (made.images[0] * 255).round().byte()
    moved = made.head_inputs["parsing"][0].targets[0][0]
    here = b.present["parsing"]
    assert torch.equal(moved[here], (raw[:, :1] // 86).long()[here])
    assert not bool(prepared_step(state, [made])["skipped"])


@pytest.mark.parametrize(("task", "k"), [(BOTH[0], 16), (BOTH[1], 4)])
def test_the_loss_is_log_k_for_uniform_logits_and_nearly_0_for_the_ideal_output(task, k):
    _, head = built(task)
    target = {"label": torch.arange(k), "box": torch.zeros(k, 3, dtype=torch.int64)}
    assert head.choices == k
    torch.testing.assert_close(head.loss(torch.zeros(k, k), target), torch.full((k,), math.log(k)))
    assert float(head.loss(head.ideal(target), target).max()) < 1e-6
    order = torch.arange(k).roll(1)
    assert float(head.loss(head.ideal(target), task.permute(target, order)).min()) > 19


def test_a_permuted_target_keeps_its_square():
    _, target = asked(BOTH[1], alike(4))
    order = torch.tensor([3, 0, 1, 2])
    permuted = BOTH[1].permute(target, order)
    assert torch.equal(permuted["box"], target["box"])
    assert torch.equal(permuted["label"], target["label"][order])


def test_class_6_is_the_upper_right_quadrant_upside_down():
    images = alike(200)
    (view,), target = asked(LocalRotation(), images)
    sample = int((target["label"] == 6).nonzero()[0])
    clean, turned = images[sample] / 255, view.images[sample]
    assert torch.equal(turned[:, :16, 16:], clean[:, :16, 16:].rot90(2, (-2, -1)))
    assert torch.equal(turned[:, 16:], clean[:, 16:])
    assert torch.equal(turned[:, :16, :16], clean[:, :16, :16])


def test_accuracy_counts_the_right_labels():
    metric = LocalRotation().metrics()["accuracy"]
    target = {"label": torch.tensor([0, 5, 14, 3]), "box": torch.zeros(4, 3)}
    metric.update(torch.eye(16)[[0, 5, 15, 3]], target)
    assert float(metric.compute()) == 0.75


def test_it_learns():
    """A quarter of the images is not turned, so the least loss is log(4) / 4 = 0.35."""
    losses = learned(LocalRotation(), steps=80, n=32, lr=1e-2)
    assert losses[0] == pytest.approx(math.log(16), abs=0.5)
    assert sum(losses[-5:]) / 5 < 1.0


@pytest.mark.parametrize("task", BOTH)
def test_the_preview_shows_the_restored_image(task):
    images = alike(6)
    assert torch.equal(shown(task, images)["pretext: target"], images / 255)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant"):
        evolve(LocalRotation(), variant="both")
