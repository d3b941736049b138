"""Dense regression and normals: masked losses, metrics, moved maps; decoders, own and shared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from aligned_toys import Scenes
from attrs import evolve
from dense_toys import ENCODER, SIZE, head_of
from toy_datasets import experiment

from mtlcore import DenseRegression, Geometry, MtlError, Segmentation, SurfaceNormals
from mtlcore.config.component import component
from mtlcore.geometry import similarity
from mtlcore.model.hybrid import HybridModel

NAN = math.nan


def turned(degrees: float, mirrored: bool = False, size=(8, 8)) -> Geometry:
    angle, flip = torch.tensor([math.radians(degrees)]), torch.tensor([mirrored])
    matrix = similarity(angle, torch.ones(1), flip, size, size)
    return Geometry.affine(matrix, size)


def test_missing_numbers_have_no_loss_and_no_error():
    target = torch.tensor([[[[2.0, 0.0, NAN, 4.0]]], [[[0.0, NAN, 0.0, -1.0]]]])
    output = torch.ones(2, 1, 1, 4, requires_grad=True)
    head, _ = head_of(DenseRegression(scale=2.0))
    loss = head.loss(output, target)
    assert loss.tolist() == [0.5, 0.0]  # the mean of |1 - 2/2| and |1 - 4/2|
    loss.sum().backward()
    assert output.grad.isfinite().all()
    every, _ = head_of(DenseRegression(scale=2.0, positive=False))
    assert float(every.loss(output.detach(), target)[1]) == pytest.approx((1 + 1 + 1.5) / 3)

    task = DenseRegression(scale=2.0)
    for name, expected in (("abs_error", (0 + 2) / 2), ("rel_error", (0 + 2 / 4) / 2)):
        metric = task.metrics()[name]
        metric.update(task.decode(output.detach()), target)
        assert float(metric.compute()) == pytest.approx(expected), name


def test_places_outside_of_the_old_image_have_no_number():
    geometry = Geometry(torch.eye(3)[None], (lambda maps, _: maps * 0,), empty=True)
    target = torch.full((1, 1, 2, 2), 5.0)
    assert not DenseRegression().move(target, geometry).any()  # 0 is missing
    assert DenseRegression(positive=False).move(target, geometry).isnan().all()


def test_normals_turn_with_the_image_whichever_way_y_points(subtests):
    right = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 8, 8)
    # A quarter turn counter-clockwise on the screen: right becomes up on the screen.
    for y, expected in (("down", [0.0, -1.0, 0.0]), ("up", [0.0, 1.0, 0.0])):
        with subtests.test(y):
            moved, share = SurfaceNormals(y=y).move(right, turned(90))
            torch.testing.assert_close(moved[0, :, 4, 4], torch.tensor(expected), atol=1e-6, rtol=0)
            assert share.tolist() == [1.0]
            mirrored, _ = SurfaceNormals(y=y).move(right, turned(0, mirrored=True))
            assert mirrored[0, :, 4, 4].tolist() == [-1.0, 0.0, 0.0]
    shuffled = turned(0).moved(lambda maps: maps.roll(3, -1))
    assert SurfaceNormals().move(right, shuffled)[1].tolist() == [0.0]


def test_angles_of_normals_are_measured_over_valid_pixels():
    true = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 0], [NAN, 0, 1]]).T
    angle = torch.deg2rad(torch.tensor([0.0, 20.0, 40.0, 90.0, 90.0]))
    predicted = torch.stack([angle.sin(), 0 * angle, angle.cos()])
    shape = (1, 3, 1, 5)
    values = {}
    for name, metric in SurfaceNormals().metrics().items():
        metric.update(predicted.reshape(shape), true.reshape(shape))
        values[name] = float(metric.compute())
    expected = {"mean_deg": 20, "median_deg": 20, "within_11.25": 1 / 3, "within_30": 2 / 3}
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=0.011)
    head, _ = head_of(SurfaceNormals())
    loss = head.loss(predicted.reshape(shape), true.reshape(shape))
    assert float(loss) == pytest.approx(np.mean(1 - angle[:3].cos().numpy()), abs=1e-6)


def test_a_predicted_normal_of_nan_is_wrong_by_180_degrees():
    true = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    median = SurfaceNormals().metrics()["median_deg"]
    median.update(torch.full_like(true, NAN), true)
    assert float(median.compute()) == 180


def test_a_mirrored_prediction_of_normals_looks_to_the_other_side():
    decoded = torch.nn.functional.normalize(torch.randn(1, 3, 4, 6), dim=1)
    mirrored = decoded.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    task = SurfaceNormals()
    average = task.average(decoded, task.mirror_back(mirrored, (4, 6)))
    torch.testing.assert_close(average, decoded)


def test_a_map_of_another_form_is_refused():
    assert "floats (H, W)" in DenseRegression().fault(np.zeros((2, 3, 3), np.float32), (2, 3))
    assert "floats (H, W)" in DenseRegression().fault(np.zeros((2, 3), np.uint8), (2, 3))
    assert "(H, W, 3)" in SurfaceNormals().fault(np.zeros((2, 3), np.float32), (2, 3))
    assert DenseRegression().fault(np.zeros((2, 3), np.float64), (2, 3)) is None


# ------------------------------------------------------------ decoders


def two_tasks(decoder: str):
    tasks = {
        "seg": Segmentation(("a", "b"), reads="classes"),
        "depth": DenseRegression("depth", decoder=decoder),
    }
    return of_tasks(tasks)


def of_tasks(tasks):
    found = experiment({"scenes": Scenes(n=8)}, tasks, size=SIZE)
    return evolve(found, encoder=ENCODER, weighting=component("weighting", "equal"))


def test_a_shared_decoder_exists_once_and_both_losses_train_it():
    own, shared = HybridModel(two_tasks("")), HybridModel(two_tasks("seg"))
    assert not own.shared_heads
    names = [name for name, _ in shared.heads.named_parameters()]
    assert [name for name in names if name.startswith("depth.")] == [
        "depth.answer.weight",
        "depth.answer.bias",
    ]
    answer = {id(p) for p in shared.heads["seg"].answer.parameters()}
    assert {id(p) for p in shared.idle(["depth"])} == answer
    assert {id(p) for p in shared.heads["seg"].decoder.parameters()} <= {
        id(p) for p in shared.shared()
    }
    features = shared.encoder(torch.rand(1, 3, *shared.encoder.info.image_size))
    shared.heads["depth"](features).sum().backward()
    assert all(p.grad is not None for p in shared.heads["seg"].decoder.parameters())


def test_a_decoder_that_can_not_be_shared_is_refused_with_what_can():
    with pytest.raises(MtlError, match=r"stands above this one in the configuration \(seg\)"):
        HybridModel(two_tasks("sky"))
    tasks = two_tasks("").tasks
    seg = tasks["seg"].component
    swapped = {"depth": DenseRegression("depth", decoder="seg"), "seg": seg}
    with pytest.raises(MtlError, match=r"\(none\)"):
        HybridModel(of_tasks(swapped))
    with pytest.raises(MtlError, match=r"\[task.depth\] has no decoder of its own"):
        head_of(DenseRegression(decoder="depth"), {"depth": torch.nn.Linear(1, 1)})
    for kind in ("segmentation", "dense_regression", "surface_normals"):
        classes = {"classes": ["a", "b"]} if kind == "segmentation" else {}
        with pytest.raises(MtlError, match=r"width and stride are those of \[task.seg\]"):
            component("task", kind, decoder="seg", stride=8, **classes)


def test_the_decoder_leaves_out_maps_finer_than_its_stride(subtests):
    for stride, maps in ((1, 4), (2, 3), (4, 2), (64, 1)):
        with subtests.test(stride):
            head, features = head_of(DenseRegression(stride=stride))
            assert len(head.decoder.laterals) == maps
            assert head(features).shape == (2, 1, *SIZE)
