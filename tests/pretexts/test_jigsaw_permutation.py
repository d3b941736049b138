"""Jigsaw: orders far from each other, and tiles that are encoded one by one in that order."""

from __future__ import annotations

import math

import pytest
import torch
from mtl_pretexts.jigsaw_permutation import JigsawPermutation, orders, standardized
from question_toys import (
    alike,
    asked,
    built,
    learned,
    setting,
    shown,
)
from refusals import assert_refused
from toys import batch, prepared_batches, train_state

from mtlcore import MtlError


def distances(found: torch.Tensor) -> torch.Tensor:
    """Return the Hamming distances of every two orders."""
    distance = (found[:, None] != found).sum(2)
    return distance[~torch.eye(len(found), dtype=torch.bool)]


def test_four_orders_of_four_tiles_are_a_latin_square():
    assert orders(4, 4).tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]


def test_twelve_orders_of_four_tiles_are_the_even_ones_and_24_are_all():
    """No 13 orders of 4 can be 3 apart: the even ones are the largest such set."""
    for order in orders(4, 12).tolist():
        inversions = sum(a > b for i, a in enumerate(order) for b in order[i + 1 :])
        assert inversions % 2 == 0, order
    assert int(distances(orders(4, 12)).min()) == 3
    assert len(orders(4, 24).unique(dim=0)) == 24


def test_orders_of_nine_tiles_are_farther_apart_than_random_ones():
    found = orders(9, 64)
    assert len(found.unique(dim=0)) == 64
    assert torch.equal(found.sort(1).values, torch.arange(9).expand(64, 9))
    random = torch.rand(64, 9, generator=torch.Generator().manual_seed(0)).argsort(1)
    assert int(distances(found).min()) >= 6 > int(distances(random).min())
    assert float(distances(found).float().mean()) > 8.0  # 8 on average at random


def test_a_smaller_set_is_the_beginning_of_a_larger_one_if_the_distance_alone_decides():
    assert torch.equal(orders(9, 9), orders(9, 64)[:9])
    assert int(distances(orders(9, 9)).min()) == 9


@pytest.mark.parametrize(("grid", "size"), [(2, 32), (3, 48), (2, 33)])
def test_each_view_shows_the_cell_of_the_order(grid, size):
    """Cells of one color, with their number in the green channel."""
    task = JigsawPermutation(grid=grid, permutations=20)
    whole = size // grid
    cell = (torch.arange(size) // whole).clamp_max(grid - 1)
    index = cell[:, None] * grid + cell
    images = torch.zeros(40, 3, size, size, dtype=torch.uint8)
    images[:, 0], images[:, 1] = 255, index.byte()  # red, so that the std is not 0
    views, number = asked(task, images)
    order = orders(grid**2, 20)[number]
    assert len(views) == grid**2
    for position, view in enumerate(views):
        tile = round(whole * 64 / 75)
        assert view.images.shape == (40, 3, tile, tile)
        green = greens(grid**2)[order[:, position]]
        torch.testing.assert_close(view.images[:, 1, 0, 0], green, atol=1e-5, rtol=0)


def greens(cells: int) -> torch.Tensor:
    """Return the standardized green of a flat cell (1, n / 255, 0) for each n."""
    colors = torch.stack([torch.ones(cells), torch.arange(cells) / 255, torch.zeros(cells)], 1)
    flat = colors[:, :, None, None].expand(-1, 3, 2, 2)
    return standardized(flat)[:, 1, 0, 0]


def test_each_tile_is_cut_at_its_own_random_place_in_its_cell():
    size, task = 48, JigsawPermutation()  # cells of 24, tiles of 20: five places each way
    images = torch.zeros(3000, 3, size, size, dtype=torch.uint8)
    images[:, :, 22, 22] = 255  # seen by tile 0 in places 3 and 4: a chance of 4 / 25
    views, number = asked(task, images)
    first = (orders(4, 24)[number] == 0).int().argmax(1)
    tiles = torch.stack([v.images for v in views], 1)[torch.arange(3000), first]
    seen = tiles.flatten(1).std(1) > 0.01
    assert float(seen.float().mean()) == pytest.approx(4 / 25, abs=0.03)


def test_standardized_tiles_have_one_mean_and_one_std():
    y = standardized(0.2 + 0.1 * torch.rand(5, 3, 20, 20))
    std = y.std((1, 2, 3), correction=0)
    torch.testing.assert_close(y.mean((1, 2, 3)), torch.full((5,), 0.5), atol=1e-4, rtol=0)
    torch.testing.assert_close(std, torch.full((5,), 0.25), atol=1e-3, rtol=0)
    flat = standardized(torch.full((2, 3, 4, 4), 0.7))
    assert bool((flat - 0.5).abs().max() < 1e-3)


def test_all_tiles_run_in_one_joint_forward():
    state = train_state(setting(JigsawPermutation()))
    calls: list[tuple[int, ...]] = []
    state.model.encoder.net.register_forward_pre_hook(
        lambda _, args: calls.append(tuple(args[0].shape))
    )
    state.model(prepared_batches(state, [batch(n=3, tasks=(), unlabeled=3)])[0])
    assert calls == [(4 * 3, 3, 14, 14)]


def test_no_supervised_head_reads_a_tile():
    with pytest.raises(MtlError, match="supervised"):
        prepared_batches(
            train_state(setting(JigsawPermutation(), ("fer",), supervised="pretext")),
            [batch(tasks=("fer",))],
        )


def test_enlarged_tiles_have_the_size_of_the_image():
    views, _ = asked(JigsawPermutation(enlarge=True), alike(2))
    assert {tuple(v.images.shape) for v in views} == {(2, 3, 32, 32)}


@pytest.mark.parametrize(
    ("task", "k"), [(JigsawPermutation(), 24), (JigsawPermutation(grid=3, permutations=30), 30)]
)
def test_the_loss_is_log_k_for_uniform_logits_and_nearly_0_for_the_ideal_output(task, k):
    _, head = built(task)
    target = torch.arange(k)
    assert head.choices == k
    torch.testing.assert_close(head.loss(torch.zeros(k, k), target), torch.full((k,), math.log(k)))
    assert float(head.loss(head.ideal(target), target).max()) < 1e-6
    assert float(head.loss(head.ideal(target), target.roll(1)).min()) > 19


def test_accuracy_counts_the_right_orders():
    metric = JigsawPermutation().metrics()["accuracy"]
    metric.update(torch.eye(24)[[0, 5, 23, 3]], torch.tensor([0, 5, 22, 3]))
    assert float(metric.compute()) == 0.75


@pytest.mark.slow
def test_it_learns():
    losses = learned(JigsawPermutation(), steps=80, n=32, lr=1e-2)
    assert losses[0] == pytest.approx(math.log(24), abs=0.5)
    assert sum(losses[-5:]) / 5 < 1.5


def test_the_preview_shows_the_first_tile_in_its_own_place():
    images = alike(6)
    found = shown(JigsawPermutation(), images)
    tile, drawn = found["pretext: view 1 of 4, 14 px"], found["pretext: target, view 1"]
    assert drawn.shape == (6, 3, 28, 28)
    task = JigsawPermutation()
    output = torch.eye(24)
    for number, order in enumerate(orders(4, 24).tolist()):
        y, x = order[0] // 2 * 14, order[0] % 2 * 14
        one = task.draw(tile[:1], torch.tensor([number]), output[number : number + 1])
        assert torch.equal(one[:, :, y : y + 14, x : x + 14], tile[:1])
        striped = (one == 0.75) | (one == 0.95)
        assert int(striped.all(1).sum()) >= 3 * 14 * 14


def test_values_out_of_range_are_refused():
    too_many = {"grid": 3, "permutations": 1001}
    assert_refused(
        JigsawPermutation, {"grid": 4}, {"permutations": 25}, {"permutations": 1}, too_many
    )
