"""Rotation: images and labels turn together, and undo is exact bit for bit."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from mtl_pretexts import rotation
from mtl_pretexts.rotation import Rotation, turn
from question_toys import (
    alike,
    asked,
    built,
    learned,
    ramp,
    shown,
    view_of,
)
from toys import Pose, batch, experiment, prepared_batches, train_state

from mtlcore.config.experiment import PretextEntry
from mtlcore.registry.catalog import catalog


def test_it_has_fewer_than_sixty_statements_and_signatures():
    """It is the shortest example of a pretext: docstrings, comments and imports do not count."""
    tree = ast.parse(Path(rotation.__file__).read_text())
    code = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    skipped = (ast.Import, ast.ImportFrom, ast.If)
    count = sum(not isinstance(node, skipped) and not is_docstring(node) for node in code)
    assert count < 60


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_it_is_found_in_its_one_file():
    own = catalog().copy()
    if ("pretext", "rotation") not in own.classes:
        own.load_file(rotation.__file__)
    assert own.find("pretext", "rotation").__name__ == "Rotation"


def test_one_quarter_turns_counter_clockwise_as_numpy_does():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).repeat(4, 1, 1, 1)
    assert turn(torch.arange(4), x)[:, 0].tolist() == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
    ]


@given(st.integers(0, 2**31), st.sampled_from([31, 32]))
def test_undo_inverts_the_view_bit_for_bit(seed, size):
    images = alike(6, size)
    (view,), turns = asked(Rotation(), images, seed)
    assert torch.equal(Rotation().undo(view.images, turns), images / 255)


def test_every_pixel_moves_as_the_matrix_and_the_warp_say():
    for size in (31, 32):
        (view,), _ = asked(Rotation(), alike(16, size))
        old = ramp(16, size)
        moved = view.geometry.warp(old)  # at each new pixel: its old position
        homogeneous = torch.cat([moved.flatten(2), torch.ones(16, 1, size * size)], 1)
        new = (view.geometry.matrix @ homogeneous)[:, :2]
        torch.testing.assert_close(new, old.flatten(2), atol=1e-4, rtol=0)


def test_turns_are_uniform():
    _, turns = asked(Rotation(), torch.zeros(4000, 3, 2, 2, dtype=torch.uint8))
    assert (turns.bincount(minlength=4) - 1000).abs().max() < 120  # 4 deviations of a fair draw


def test_pose_labels_turn_with_the_image():
    """With x right and y down, a counter-clockwise quarter turn moves (1, 0) to (0, -1)."""
    task = Rotation()
    (view,), turns = asked(task, alike(16))
    pose = Pose().move(torch.eye(3).repeat(16, 1, 1), view.geometry)
    quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    expected = torch.stack([torch.linalg.matrix_power(quarter, int(k)) for k in turns])
    torch.testing.assert_close(pose, expected, atol=1e-6, rtol=0)


def test_dense_labels_turn_with_the_image():
    exp = experiment(("parsing",), augment=None, supervised="pretext")
    exp = evolve(
        exp,
        pretexts={"rotation": PretextEntry(Rotation())},
        augment=type(exp.augmentations["validation"])(),
    )
    made = prepared_batches(train_state(exp), [batch(size=32, tasks=("parsing",), unlabeled=0)])[0]
    (head_input,) = made.head_inputs["parsing"]
    target = head_input.targets[0][0]
    assert head_input.images == made.head_inputs["rotation"][0].images
    raw = (made.images[head_input.images[0]] * 255).round().byte()
    assert torch.equal(target, (raw[:, :1] // 86).long())


def test_the_loss_is_log_4_for_uniform_logits_and_nearly_0_for_the_ideal_output():
    _, head = built(Rotation())
    target = torch.arange(4)
    torch.testing.assert_close(head.loss(torch.zeros(4, 4), target), torch.full((4,), math.log(4)))
    assert float(head.loss(head.ideal(target), target).max()) < 1e-6
    assert float(head.loss(head.ideal(target), target.roll(1)).min()) > 19


def test_a_loss_by_hand():
    _, head = built(Rotation())
    loss = head.loss(torch.tensor([[1.0, 2.0, 0.0, 0.0]]), torch.tensor([1]))
    assert float(loss) == pytest.approx(math.log(math.e + math.e**2 + 2) - 2)


def test_accuracy_counts_the_right_turns():
    metric = Rotation().metrics()["accuracy"]
    metric.update(torch.eye(4)[[0, 1, 2, 2]], torch.tensor([0, 1, 2, 3]))
    assert float(metric.compute()) == 0.75


def test_it_learns():
    losses = learned(Rotation())
    assert losses[0] == pytest.approx(math.log(4), abs=0.5)
    assert sum(losses[-5:]) / 5 < 0.3


def test_the_preview_shows_the_upright_image():
    images = alike(6)
    found = shown(Rotation(), images)
    assert torch.equal(found["pretext: target"], view_of(images).images)
