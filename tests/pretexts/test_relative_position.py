"""Relative position: the target neighbor, gaps and jitter, remedies against color shortcuts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts._shared import crop
from mtl_pretexts.relative_position import RelativePosition, one_channel, without_fringes
from question_toys import (
    alike,
    asked,
    built,
    learned,
    setting,
    shown,
)
from refusals import assert_refused
from toys import batch, key, prepared_batches, train_state

from mtlcore import MtlError

EXACT = RelativePosition(gap=0.0, jitter=0.0, colors="keep", enlarge=False)
AS_THEY_ARE = RelativePosition(colors="keep", enlarge=False)


def test_without_gap_and_jitter_the_patches_are_the_nine_cells_in_reading_order():
    images = alike(64, 30)
    (middle, other), target = asked(EXACT, images)
    x = images / 255
    assert torch.equal(middle.images, x[:, :, 10:20, 10:20])
    seen = set()
    for sample, neighbor in enumerate(target.tolist()):
        cell = neighbor + (neighbor >= 4)
        y0, x0 = cell // 3 * 10, cell % 3 * 10
        assert torch.equal(other.images[sample], x[sample, :, y0 : y0 + 10, x0 : x0 + 10])
        seen.add(cell)
    assert seen == {0, 1, 2, 3, 5, 6, 7, 8}


def test_the_layout_of_48_pixels_by_hand():
    # 48 / (3 + 1 + 2 * 7 / 96) = 11.58; 11 + 5.5; 7 / 96 * 11 = 0.8
    assert RelativePosition().layout(48) == (11, 16, 1)
    assert EXACT.layout(48) == (16, 16, 0)


@given(st.integers(3, 130), st.floats(0, 1), st.floats(0, 1))
def test_patches_of_any_layout_are_inside_and_do_not_overlap_without_jitter(image, gap, jitter):
    size, step, shift = RelativePosition(gap=gap, jitter=jitter).layout(image)
    assert size >= 1
    assert shift >= 0
    middle = (image - size) // 2
    assert middle - step - shift >= 0
    assert middle + step + shift + size <= image
    assert step >= size or image < 3 * size


def test_jitter_moves_each_patch_independently_within_its_limit():
    size = 96
    at = torch.arange(size, dtype=torch.uint8)
    images = torch.stack(
        [at.expand(size, size), at[:, None].expand(size, size), torch.zeros(size, size).byte()]
    )
    (middle, other), target = asked(AS_THEY_ARE, images.expand(2000, 3, size, size))
    patch, step, shift = AS_THEY_ARE.layout(size)
    assert (patch, step, shift) == (23, 34, 2)
    corner = torch.stack([(v.images[:, :2, 0, 0] * 255).round().long() for v in (middle, other)])
    cell = target + (target >= 4)
    expected = torch.stack([cell % 3 - 1, cell // 3 - 1], 1) * step + (size - patch) // 2
    moved = torch.stack([corner[0] - (size - patch) // 2, corner[1] - expected])
    assert int(moved.abs().max()) == shift
    assert all(set(m.tolist()) == {-2, -1, 0, 1, 2} for m in moved.movedim(-1, 1).flatten(0, 1))
    assert bool((moved[0] != moved[1]).any())


def test_crop_cuts_each_sample_at_its_own_corner():
    x = torch.rand(3, 2, 7, 9)
    top, left = torch.tensor([0, 2, 4]), torch.tensor([6, 0, 3])
    found = crop(x, top, left, (3, 3))
    for i, (y0, x0) in enumerate(zip(top.tolist(), left.tolist())):
        assert torch.equal(found[i], x[i, :, y0 : y0 + 3, x0 : x0 + 3])


def test_one_channel_of_each_patch_remains_and_the_others_are_faint_noise():
    x = torch.rand(300, 3, 8, 8)
    y = one_channel(x, key()("draw"))
    same = (x == y).flatten(2).all(2)
    assert same.sum(1).tolist() == [1] * 300
    assert (same.sum(0) - 100).abs().max() < 35
    noise = y.movedim(1, 0)[~same.T] - 0.5
    assert float(noise.std()) == pytest.approx(0.01 * float(x.std()), rel=0.05)


def test_projection_keeps_gray_and_removes_green_minus_magenta():
    gray = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(without_fringes(gray), gray)
    fringe = torch.tensor([0.3, 0.6, 0.3]).view(1, 3, 1, 1)
    torch.testing.assert_close(without_fringes(fringe), torch.full((1, 3, 1, 1), 0.4))
    x = without_fringes(0.3 + 0.4 * torch.rand(4, 3, 5, 5))
    torch.testing.assert_close(2 * x[:, 1], x[:, 0] + x[:, 2])


def test_patches_have_the_size_of_the_image_or_their_own():
    for enlarge, size in ((True, 48), (False, 11)):
        views, _ = asked(RelativePosition(enlarge=enlarge), alike(2, 48))
        assert [v.images.shape for v in views] == [(2, 3, size, size)] * 2
        assert [v.geometry for v in views] == [None, None]


def test_no_supervised_head_reads_a_patch():
    with pytest.raises(MtlError, match="supervised"):
        prepared_batches(
            train_state(setting(RelativePosition(), ("fer",), supervised="pretext")),
            [batch(tasks=("fer",))],
        )
    made = prepared_batches(
        train_state(setting(RelativePosition(), ("fer",), supervised="both")),
        [batch(tasks=("fer",))],
    )[0]
    assert made.head_inputs["pretext"][0].images == (0, 1)
    assert [r.images for r in made.head_inputs["fer"]] == [(2,)]


def test_the_loss_is_log_8_for_uniform_logits_and_nearly_0_for_the_ideal_output():
    _, head = built(RelativePosition())
    target = torch.arange(8)
    torch.testing.assert_close(head.loss(torch.zeros(8, 8), target), torch.full((8,), math.log(8)))
    assert float(head.loss(head.ideal(target), target).max()) < 1e-6
    assert float(head.loss(head.ideal(target), target.roll(1)).min()) > 19


def test_the_head_distinguishes_the_middle_from_the_neighbor():
    net, head = built(RelativePosition())
    a, b = net(alike(2) / 255), net(1 - alike(2) / 255)
    torch.testing.assert_close(head(a, b), head.answer(torch.cat([a.pooled, b.pooled], 1)))
    assert not torch.allclose(head(a, b), head(b, a))


def test_accuracy_counts_the_right_places():
    metric = RelativePosition().metrics()["accuracy"]
    metric.update(torch.eye(8)[[0, 1, 7, 7]], torch.tensor([0, 1, 7, 3]))
    assert float(metric.compute()) == 0.75


def test_it_learns():
    losses = learned(RelativePosition(enlarge=False, colors="keep"), steps=80, n=32, lr=1e-2)
    assert losses[0] == pytest.approx(math.log(8), abs=0.4)
    assert sum(losses[-5:]) / 5 < 0.7


def test_the_preview_shows_the_middle_patch_and_the_predicted_place_in_white():
    images = alike(6, 32)
    found = shown(RelativePosition(), images)
    middle = found["pretext: view 1 of 2, 32 px"]
    drawn = found["pretext: target, view 1"]
    assert drawn.shape == (6, 3, 96, 96)
    assert torch.equal(drawn[:, :, 32:64, 32:64], middle)
    target = torch.arange(8)
    drawn = RelativePosition().draw(torch.zeros(8, 3, 4, 4), target, torch.eye(8))
    lit = drawn[:, 0, 2::4, 2::4].flatten(1)
    assert lit.argmax(1).tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert bool((lit == 0.5).sum(1).eq(7).all())
    assert lit[:, 4].tolist() == [0.0] * 8


def test_values_out_of_range_are_refused():
    assert_refused(RelativePosition, {"gap": -0.1}, {"jitter": 1.5}, {"colors": "gray"})
