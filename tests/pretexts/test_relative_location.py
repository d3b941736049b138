"""Relative location: the table of all offsets, and its queried pairs."""

from __future__ import annotations

import pytest
import torch
from mtl_pretexts.relative_location import (
    RelativeLocation,
    RelativeLocationHead,
    cells,
    predicted_offsets,
    true_offsets,
)
from question_toys import (
    alike,
    asked,
    built,
    learned,
    setting,
)
from toys import batch, prepared_batches, train_state

from mtlcore import EncoderInfo

# On a map of 4 x 4: cells (x, y) = (0, 1) and (3, 2).
PAIR = torch.tensor([[[[0.1, 0.3], [0.9, 0.55]]]])


def test_places_fall_into_cells():
    assert cells(PAIR, (4, 4)).tolist() == [[[[0, 1], [3, 2]]]]
    assert cells(PAIR, (2, 10)).tolist() == [[[[1, 0], [9, 1]]]]
    for size in range(1, 100):  # the largest draw below 1 is in the last cell
        assert cells(torch.full((2,), 1 - 2**-24), (size, size)).tolist() == [size - 1, size - 1]


def test_the_offset_of_a_pair_by_hand():
    table = torch.zeros(1, 4, 4, 4, 4, 2)
    target = {"queried": PAIR, "true": PAIR}
    assert true_offsets(target, table).tolist() == [[[0.75, 0.25]]]
    table[0, 1, 0, 2, 3] = torch.tensor([0.5, -0.5])
    assert predicted_offsets(table, target).tolist() == [[[0.5, -0.5]]]
    _, head = built(RelativeLocation(pairs=1))
    assert head.loss(table, target).tolist() == [0.5]  # (0.25 + 0.75) / 2


def test_the_table_equals_the_layers_applied_to_each_pair_of_cells():
    net, head = built(RelativeLocation(width=5))
    features = net(alike(2) / 255)
    table, x = head(features), features.maps[-1]
    assert table.shape == (2, 4, 4, 4, 4, 2)
    start, end = x[1, :, 1, 0], x[1, :, 2, 3]
    torch.testing.assert_close(table[1, 1, 0, 2, 3], head.answer(head.start(start) + head.end(end)))


def test_the_ideal_output_is_the_true_geometry():
    task = RelativeLocation()
    _, head = built(task)
    _, target = asked(task, alike(5))
    assert head.ideal(target)[0, 1, 0, 2, 3].tolist() == [0.75, 0.25]
    assert head.loss(head.ideal(target), target).tolist() == [0.0] * 5
    wrong = task.permute(target, torch.arange(5).roll(1))
    assert float(head.loss(head.ideal(target), wrong).min()) > 0.1


def test_the_loss_of_a_constant_zero_is_as_documented():
    task = RelativeLocation(pairs=4000)
    _, head = built(task)
    _, target = asked(task, alike(4))
    loss = head.loss(torch.zeros(4, 4, 4, 4, 4, 2), target)
    assert float(loss.mean()) == pytest.approx((1 - 1 / 16) / 3, abs=0.01)


def test_the_map_has_three_to_seven_cells_along_each_side():
    for sizes, level, size in (
        (((48, 48), (24, 24), (12, 12), (6, 6)), 3, (6, 6)),
        (((16, 16), (8, 8), (4, 4), (2, 2)), 2, (4, 4)),
        (((14, 14),), 0, (7, 7)),
        (((2, 2), (1, 1)), 0, (2, 2)),
    ):
        head = RelativeLocationHead(
            EncoderInfo(8, tuple(range(1, len(sizes) + 1)), sizes, (48, 48)), 4
        )
        assert (head.level, head.size) == (level, size), sizes
        assert head.start.in_features == level + 1


def test_the_clean_view_is_shared_and_needs_no_forward():
    made = prepared_batches(
        train_state(setting(RelativeLocation(), ("fer",))), [batch(tasks=("fer",))]
    )[0]
    assert len(made.images) == 1
    assert made.head_inputs["fer"][0].images == made.head_inputs["pretext"][0].images == (0,)


def test_a_permuted_target_has_the_same_queried_cells():
    task = RelativeLocation()
    _, target = asked(task, alike(3))
    permuted = task.permute(target, torch.tensor([1, 2, 0]))
    assert torch.equal(permuted["queried"], target["queried"])
    assert torch.equal(permuted["true"], target["true"][[1, 2, 0]])


def test_the_metrics_are_the_mean_error_and_the_share_of_right_cells():
    task = RelativeLocation()
    _, target = asked(task, alike(3))
    _, head = built(task)
    ideal = head.ideal(target)
    metrics = task.metrics()
    for shift in (0.0, 0.2):  # on a map of 4 cells: less than half a cell is 0.125
        for metric in metrics.values():
            metric.update(ideal + shift, target)
    assert float(metrics["l1"].compute()) == pytest.approx(0.1)
    assert float(metrics["accuracy"].compute()) == pytest.approx(0.5)


def test_it_learns():
    losses = learned(RelativeLocation())
    assert losses[0] > 0.25
    assert sum(losses[-5:]) / 5 < 0.1


def test_the_drawing_marks_the_start_white_and_the_predicted_end_green():
    task = RelativeLocation(pairs=1)
    _, head = built(task)
    target = {"queried": PAIR, "true": PAIR}
    drawn = task.draw(torch.full((1, 3, 32, 32), 0.5), target, head.ideal(target))
    assert drawn[0, :, 8:16, 0:8].unique().tolist() == [1.0]
    assert drawn[0, :, 20, 28].tolist() == [0.0, 1.0, 0.0]
    assert int((drawn != 0.5).any(1).sum()) == 2 * 8 * 8
    wrong = task.draw(torch.full((1, 3, 32, 32), 0.5), target, torch.zeros(1, 4, 4, 4, 4, 2))
    assert wrong[0, :, 20, 28].tolist() == [1.0, 0.0, 0.0]
