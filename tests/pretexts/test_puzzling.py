"""Puzzling: tiles move as the target says, and undo is exact bit for bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts.puzzling import Puzzling, PuzzlingHead, assemble, shuffle, unshuffle
from refusals import assert_refused
from toys import Plain, batch, experiment, prepared_batches, train_state

from mtlcore import BuildContext, EncoderInfo, Features, MtlError
from mtlcore.config.component import component
from mtlcore.model.inference import SharedEncoder


def targets(grid: int, samples: int, seed: int):
    """Draw the order and the turns of the tiles, each (samples, grid * grid)."""
    g = torch.Generator().manual_seed(seed)
    order = torch.rand(samples, grid**2, generator=g).argsort(1)
    turns = torch.randint(4, (samples, grid**2), generator=g)
    return order, turns


@given(
    st.sampled_from([2, 3, 4]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_unshuffle_inverts_shuffle_bit_for_bit(grid, samples, tile, rotate, seed):
    order, turns = targets(grid, samples, seed)
    x = torch.rand(
        samples, 3, grid * tile, grid * tile, generator=torch.Generator().manual_seed(seed)
    )
    turned = turns if rotate else None
    assert torch.equal(unshuffle(order, turned, shuffle(order, turned, x)), x)


@given(st.sampled_from([2, 3]), st.booleans(), st.integers(0, 2**31))
def test_each_position_shows_the_target_tile(grid, rotate, seed):
    order, turns = targets(grid, 3, seed)
    x = torch.rand(3, 1, 4 * grid, 4 * grid)
    y = shuffle(order, turns if rotate else None, x)
    for n in range(3):
        for p in range(grid**2):
            t = int(order[n, p])
            tile = x[n, :, t // grid * 4 : t // grid * 4 + 4, t % grid * 4 : t % grid * 4 + 4]
            here = y[n, :, p // grid * 4 : p // grid * 4 + 4, p % grid * 4 : p % grid * 4 + 4]
            if rotate:
                tile = tile.rot90(int(turns[n, p]), (-2, -1))
            assert torch.equal(here, tile)


def test_permutations_are_uniform():
    """All 24 orders of a 2 x 2 grid occur, 300 times each on average, with a small chi2."""
    state = train_state(experiment((), ("puzzle_spatial",), augment=Plain()))
    counts: dict[tuple[int, ...], int] = {}
    for step in range(9):
        state.step = step
        b = batch(n=800, size=32, tasks=(), unlabeled=800)
        (head_input,) = prepared_batches(state, [b])[0].head_inputs["puzzle_spatial"]
        target, _ = head_input.targets[0]
        for sample in target["tile"][:, 0].tolist():
            counts[tuple(sample)] = counts.get(tuple(sample), 0) + 1
    assert len(counts) == 24
    chi2 = sum((c - 300) ** 2 / 300 for c in counts.values())
    assert chi2 < 60  # 23 degrees of freedom: 1 in 40,000


def test_a_share_keeps_its_order_which_is_a_valid_target():
    state = train_state(experiment((), ("jigen",), augment=Plain()))
    b = batch(n=2000, size=32, tasks=(), unlabeled=2000)
    made = prepared_batches(state, [b])[0]
    tiles = made.head_inputs["jigen"][0].targets[0][0]["tile"][:, 0]
    in_order = (tiles == torch.arange(4)).all(1)
    assert abs(float(in_order.float().mean()) - (0.7 + 0.3 / 24)) < 0.04
    assert torch.equal(made.images[0][in_order], b.images[in_order].float() / 255)


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_the_view_has_the_input_size_for_any_grid(grid):
    for size in (31, 32, 33, 48):
        exp = experiment(("fer",), ("puzzle_pooled",), augment=Plain(), size=size)
        entry = evolve(exp.pretexts["puzzle_pooled"], component=Puzzling(grid=grid))
        state = train_state(evolve(exp, pretexts={"puzzling": entry}))
        made = prepared_batches(state, [batch(tasks=("fer",))])[0]
        assert made.images[0].shape[-2:] == (size, size)


def test_the_siamese_variant_makes_views_of_three_sizes():
    made = prepared_batches(
        train_state(experiment(("fer",), ("siamese",), size=32)), [batch(tasks=("fer",))]
    )[0]
    sizes = [x.shape[-1] for x in made.images[:3]]
    assert 32 <= sizes[0] <= 36
    assert sizes[1] == 32
    assert 18 <= sizes[2] <= 32
    assert made.head_inputs["siamese"][0].targets[0][0]["tile"].shape == (6, 3, 4)


def test_undo_inverts_the_view_bit_for_bit():
    exp = experiment((), ("turning",), augment=Plain(), size=32)
    b = batch(size=32, tasks=(), unlabeled=6)
    made = prepared_batches(train_state(exp), [b])[0]
    target = made.head_inputs["turning"][0].targets[0][0]
    back = exp.pretexts["turning"].component.undo(made.images[0], target)
    assert torch.equal(back, b.images.float() / 255)


@pytest.mark.parametrize(
    ("size", "grid", "whole"), [(50, 3, 51), (50, 4, 52), (31, 2, 32), (48, 3, 48)]
)
def test_a_prediction_is_drawn_at_the_next_size_that_the_grid_divides(size, grid, whole):
    task = Puzzling(grid=grid)
    order, _ = targets(grid, 2, 0)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    target = {"tile": order[:, None]}
    drawn = task.draw(images, target, PuzzlingHead(16, 8, task).ideal(target))
    if whole != size:
        images = F.interpolate(images, (whole, whole), mode="bilinear", align_corners=False)
    assert torch.equal(drawn, unshuffle(order, None, images))


@pytest.mark.parametrize("kind", ["pooled", "spatial"])
@pytest.mark.parametrize("rotate", [False, True])
def test_the_loss_is_log_of_the_choices_for_uniform_logits_and_nearly_0_for_ideal(kind, rotate):
    task = Puzzling(grid=3, head=kind, rotate=rotate)
    head = PuzzlingHead(16, 8, task)
    for p in head.parameters():
        torch.nn.init.zeros_(p)
    features = Features((torch.randn(4, 8, 6, 6),), torch.randn(4, 16), torch.randn(4, 8, 6, 6))
    order, turns = targets(3, 4, 0)
    target = {"tile": order[:, None]}
    expected = torch.tensor(9.0).log()
    if rotate:
        target["turn"] = turns[:, None]
        expected = expected + torch.tensor(4.0).log()
    torch.testing.assert_close(head.loss(head(features), target), expected.expand(4))
    assert float(head.loss(head.ideal(target), target).max()) < 1e-4


def test_a_spatial_head_needs_a_cell_for_each_tile():
    """From one cell, all positions would get equal logits: the loss could not fall."""
    task = Puzzling(grid=3, head="spatial")
    few = BuildContext(EncoderInfo(8, (4, 8), ((8, 6), (4, 2)), (32, 24)), torch.nn.Identity(), {})
    with pytest.raises(MtlError, match=r"3 x 3 tiles; .* has 4 x 2 cells for images of 32 x 24 "):
        task.build(few)
    evolve(task, grid=2).build(few)
    evolve(task, head="pooled").build(few)


def test_the_cells_of_a_scaled_view_are_measured():
    """Strided convolutions round up: 24 pixels have 2 x 2 cells, more than half of 3 x 3."""
    encoder = SharedEncoder(component("encoder", "resnet_small", stem_stride=2), (48, 48))
    context = BuildContext(encoder.info, encoder, {})
    task = Puzzling(grid=2, head="spatial", scales=((1.0, 1.0), (0.5, 1.0)))
    assert encoder.info.map_sizes[-1] == (3, 3)
    task.build(context)
    with pytest.raises(MtlError, match=r"2 x 2 tiles; .* has 1 x 1 cells for images of 14 x 14 "):
        evolve(task, scales=((0.3, 1.0),)).build(context)
    assert encoder.training


def test_tile_accuracy_counts_right_positions():
    task = Puzzling(grid=2, head="spatial")
    head, metric = PuzzlingHead(16, 8, task), task.metrics()["accuracy"]
    order, _ = targets(2, 6, 1)
    target = {"tile": order[:, None]}
    metric.update(head.ideal(target), target)
    assert float(metric.compute()) == 1.0
    swapped = {"tile": order.flip(1)[:, None]}
    metric.update(head.ideal(swapped), target)
    assert float(metric.compute()) == pytest.approx(0.5)


def test_values_out_of_range_are_refused():
    assert_refused(
        Puzzling, {"grid": 5}, {"shuffled": 1.5}, {"scales": ()}, {"scales": ((0.5, 0.1),)}
    )


def test_a_place_without_a_tile_does_not_look_like_a_cutout():
    images = torch.full((1, 3, 16, 16), 0.5)  # as gray as a cutout
    scores = torch.zeros(1, 4, 4)
    scores[:, 0] = 1.0  # all positions predict the first place
    drawn = assemble(scores, None, images)
    assert torch.equal(drawn[:, :, :8, :8], images[:, :, :8, :8])
    assert not (drawn[:, :, 8:] == 0.5).any()
