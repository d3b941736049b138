"""Landmarks: losses and metrics against independent computations, mirrored pairs, bad points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dense_toys import SIZE, head_of

from mtlcore import Geometry, Landmarks
from mtlcore.config.component import component
from mtlcore.geometry import similarity
from mtlcore.tasks.dense.landmarks import soft_argmax

NAN = math.nan
TRUE = torch.tensor([[[0.0, 0.0], [4.0, 0.0], [4.0, 9.0], [NAN, NAN]]])


def test_unknown_points_have_no_loss_and_a_sample_without_any_loses_0():
    head, _ = head_of(Landmarks(4))
    output = torch.zeros(2, 4, 2, requires_grad=True)
    target = torch.cat([TRUE, torch.full_like(TRUE, NAN)])
    loss = head.loss(output, target)
    height, width = SIZE
    expected = (0 + (4 / width) / 2 + (4 / width + 9 / height) / 2) / 3
    assert loss.tolist() == pytest.approx([expected, 0.0])
    loss.sum().backward()
    assert output.grad.isfinite().all()


def test_the_error_is_divided_by_the_stated_norm(subtests):
    predicted = TRUE.nan_to_num() + torch.tensor([3.0, 4.0])  # each point is 5 pixels off
    norms = {
        "box": ({}, math.sqrt(4 * 9)),
        "diagonal": ({"norm": "diagonal"}, math.hypot(4, 9)),
        "pair": ({"norm": "pair", "norm_pair": (0, 1)}, 4.0),
    }
    for name, (fields, norm) in norms.items():
        with subtests.test(name):
            metric = Landmarks(4, **fields).metrics()["nme"]
            metric.update(predicted, TRUE)
            assert float(metric.compute()) == pytest.approx(5 / norm)


def test_points_without_a_size_are_left_out():
    line = torch.tensor([[[2.0, 5.0], [8.0, 5.0]], [[0.0, 0.0], [3.0, 3.0]]])
    metric = Landmarks(2).metrics()["nme"]
    metric.update(line + torch.tensor([0.0, 1.5]), line)  # the box of the first is flat
    assert float(metric.compute()) == pytest.approx(0.5)


def test_coordinates_are_as_exact_in_bf16_as_the_layer_before_them():
    """A sum in bf16 would round them to 1 / 256 of the image."""
    head, features = head_of(Landmarks(2))
    with torch.autocast("cpu", torch.bfloat16):
        unit = head.answer(features.pooled)
        found = head(features)
    assert unit.dtype == torch.bfloat16
    height, width = SIZE
    expected = (unit.double().unflatten(1, (2, 2)) + 0.5) * torch.tensor([width, height])
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_failures_and_the_area_under_the_curve():
    errors = np.array([0.0, 0.02, 0.05, 0.09, 0.3])
    true = torch.tensor([[0.0, 0.0], [10.0, 10.0]]).expand(5, 2, 2)
    predicted = true.clone()
    predicted[..., 0] += torch.tensor(10 * errors).float()[:, None]
    values = {}
    for name, metric in Landmarks(2, failure=0.1).metrics().items():
        metric.update(predicted, true)
        values[name] = float(metric.compute())
    limits = np.linspace(0, 0.1, 20001)
    share = (errors[:, None] <= limits).mean(0)
    assert values["failure_rate"] == pytest.approx(0.2)
    assert values["auc"] == pytest.approx(np.trapezoid(share, limits) / 0.1, abs=1e-3)
    assert values["nme"] == pytest.approx(errors.mean(), abs=1e-6)


def test_a_prediction_that_is_not_finite_is_a_failure():
    true = torch.tensor([[0.0, 0.0], [10.0, 10.0]]).expand(4, 2, 2)
    predicted = true.clone()
    predicted[0] = NAN
    predicted[1, 1] = math.inf
    values = {}
    for name, metric in Landmarks(2).metrics().items():
        metric.update(predicted, true)
        values[name] = float(metric.compute())
    assert values == {"nme": math.inf, "failure_rate": 0.5, "auc": 0.5}


def test_a_mirrored_image_swaps_pairs_and_a_turned_one_does_not():
    task = Landmarks(3, flip_pairs=((0, 2),))
    points = torch.tensor([[[1.0, 2.0], [5.0, 3.0], [8.0, 4.0]]])
    for flip, expected in (
        (True, [[2.0, 4.0], [5.0, 3.0], [9.0, 2.0]]),
        (False, [[1.0, 2.0], [5.0, 3.0], [8.0, 4.0]]),
    ):
        matrix = similarity(torch.zeros(1), torch.ones(1), torch.tensor([flip]), (10, 10), (10, 10))
        moved, share = task.move(points, Geometry.affine(matrix, (10, 10)))
        torch.testing.assert_close(moved[0], torch.tensor(expected))
        assert share.tolist() == [1.0]
        if flip:
            torch.testing.assert_close(task.mirror_back(moved, (10, 10)), points)


def test_a_sharp_heat_map_answers_the_middle_of_its_cell():
    heat = torch.full((1, 1, 3, 4), -50.0)
    heat[0, 0, 2, 1] = 50.0
    torch.testing.assert_close(soft_argmax(heat)[0, 0], torch.tensor([1.5 / 4, 2.5 / 3]))


def test_heat_maps_have_no_loss_for_points_outside_of_the_view():
    head, features = head_of(Landmarks(2, method="heatmaps"))
    points = head(features)
    height, width = SIZE
    assert points.shape == (2, 2, 2)
    assert (points > 0).all()
    assert (points < torch.tensor([width, height])).all()
    target = torch.tensor([[[-4.0, 2.0], [3.0, 2.0]]])
    only_second = torch.tensor([[[NAN, NAN], [3.0, 2.0]]])
    torch.testing.assert_close(head.loss(points[:1], target), head.loss(points[:1], only_second))
    coordinates, _ = head_of(Landmarks(2))
    assert coordinates.loss(points[:1], target) != coordinates.loss(points[:1], only_second)


def test_points_that_can_not_be_right_are_refused(subtests):
    task = Landmarks(3)
    inside = np.array([[1.0, 2.0], [30.0, 2.0], [5.0, 5.0]])
    cases = {
        "another number": (inside[:2], "2 points; the task has points = 3"),
        "far below": (inside * [1, 20], "3 of 3 points are outside of the image"),
        "a map": (np.zeros((4, 4, 3)), "landmarks reads points"),
        "mostly outside": (inside + np.array([40, 0]), "3 of 3 points are outside"),
    }
    for name, (label, expected) in cases.items():
        with subtests.test(name):
            assert expected in task.fault(label, (24, 32))
    assert task.fault(inside, (24, 32)) is None
    assert task.fault(np.full((3, 2), NAN), (24, 32)) is None
    assert task.fault(inside + np.array([10, 0]), (24, 32)) is None  # one point, cut off by a crop


def test_wrong_settings_are_refused(subtests):
    for fields, expected in (
        ({"decoder": "seg"}, 'set method = "heatmaps" or remove them'),
        ({"width": 32}, 'set method = "heatmaps" or remove them'),
        ({"method": "heatmaps", "decoder": "seg", "width": 32}, r"those of \[task.seg\]"),
        ({"flip_pairs": [[0, 1, 2]]}, "pairs of two numbers"),
        ({"flip_pairs": [[0], [1]]}, "pairs of two numbers"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "the point 1 in two pairs"),
        ({"flip_pairs": [[0, 3]]}, "from 0 to 2"),
        ({"flip_pairs": [[1, 1]]}, "two different numbers"),
        ({"norm": "pair"}, "needs norm_pair"),
        ({"norm_pair": [0, 1]}, "needs norm_pair"),
        ({"points": 1}, "expected at least 2"),
    ):
        with subtests.test(str(fields)), pytest.raises(Exception, match=expected):
            component("task", "landmarks", **{"points": 3, **fields})
