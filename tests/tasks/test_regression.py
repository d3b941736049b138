"""Regression: standardized for learning, decoded and measured in the unit of the annotation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tomli_w
import torch

from mtlcore import BuildContext, EncoderInfo, Features, MtlError
from mtlcore.config.strict import converter
from mtlcore.tasks.regression import Regression, RegressionHead

AGES = np.array([20.0, 30.0, np.nan, 40.0])


def head(task: Regression) -> RegressionHead:
    torch.manual_seed(0)
    made = task.build(BuildContext(EncoderInfo(5, (), (), (32, 32)), torch.nn.Identity(), {}))
    assert isinstance(made, RegressionHead)
    return made


def test_fit_takes_mean_and_deviation_of_the_samples_that_have_numbers():
    fitted = Regression(reads="age").fit(AGES)
    assert (fitted.mean, fitted.outputs) == ((30.0,), ("0",))
    assert fitted.std == pytest.approx((math.sqrt(200 / 3),))


def test_fit_keeps_fields_that_are_set_and_needs_no_samples_for_a_fitted_task():
    given = Regression(reads="age", mean=(25.0,), std=(10.0,), outputs=("age",))
    assert given.fit(AGES) == given
    fitted = Regression(reads="age", std=(10.0,)).fit(AGES)
    assert (fitted.mean, fitted.std) == ((30.0,), (10.0,))
    assert fitted.fit(np.zeros(0)) == fitted


def test_a_fitted_task_is_saved_in_a_configuration_and_read_back():
    fitted = Regression(reads="box", loss="huber").fit(
        np.random.default_rng(0).normal(3, 2, (9, 2))
    )
    import tomllib

    table = tomllib.loads(tomli_w.dumps(converter.unstructure(fitted)))
    assert converter.structure(table, Regression) == fitted


def test_targets_keep_their_unit_and_samples_that_lack_a_number_are_absent():
    target, present = Regression(reads="age").fit(AGES).target(AGES)
    assert (target.tolist(), target.dtype) == ([[20.0], [30.0], [0.0], [40.0]], torch.float32)
    assert present.tolist() == [True, True, False, True]
    pairs = np.array([[1.0, 2.0], [np.nan, 3.0], [np.inf, 0.0]])
    task = Regression(reads="xy").fit(np.array([[0.0, 0.0], [1.0, 4.0]]))
    assert task.target(pairs)[1].tolist() == [True, False, False]


def test_a_constant_number_gets_std_1():
    for constant in (7.0, 0.1):  # the mean of many 0.1 differs from 0.1 by rounding
        fitted = Regression(reads="age").fit(np.full(5000, constant))
        assert (fitted.mean, fitted.std) == (pytest.approx((constant,)), (1.0,))


def test_errors_of_the_user_are_reported():
    with pytest.raises(MtlError, match="'age' holds text"):
        Regression(reads="age").fit(np.array(["20", "30"]))
    with pytest.raises(
        MtlError,
        match=r"holds text, such as 'old' .*list it in `numeric` to skip such samples",
    ):
        Regression(reads="age").fit(np.array(["20", "", "old", "older"]))
    with pytest.raises(MtlError, match="2 numbers per sample, but outputs"):
        Regression(reads="xy", outputs=("x", "y", "z")).fit(np.ones((4, 2)))
    with pytest.raises(MtlError, match="2 numbers per sample, but outputs"):
        Regression(reads="age").fit(AGES).target(np.ones((4, 2)))
    with pytest.raises(MtlError, match="nothing to learn"):
        Regression(reads="age").fit(np.array([np.nan]))
    with pytest.raises(ValueError, match="'std' must be above 0"):
        Regression(std=(0.0,))
    with pytest.raises(ValueError, match="differ in length"):
        Regression(mean=(1.0, 2.0), std=(1.0,))


@pytest.mark.parametrize(
    ("loss", "expected"), [("l1", 1.25), ("l2", (0.25 + 4) / 2), ("huber", (0.125 + 1.5) / 2)]
)
def test_the_loss_compares_standardized_numbers(loss, expected):
    """Predictions that are half a deviation and two deviations off."""
    task = Regression(reads="xy", loss=loss, mean=(10.0, -5.0), std=(4.0, 0.5), outputs=("x", "y"))
    output = torch.tensor([[0.5, 2.0]], requires_grad=True)
    got = head(task).loss(output, torch.tensor([[10.0, -5.0]]))
    assert got.tolist() == pytest.approx([expected])
    assert head(task).loss(output, torch.zeros(1, 2)).isfinite().all()


@pytest.mark.parametrize("loss", ["l1", "l2", "huber"])
def test_the_loss_does_not_depend_on_the_unit(loss):
    years = np.random.default_rng(0).uniform(0, 90, 40)
    losses = []
    for values in (years, years * 365.25 + 1000):
        task = Regression(reads="age", loss=loss).fit(values)
        losses.append(head(task).loss(torch.linspace(-1, 1, 40)[:, None], task.target(values)[0]))
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_the_ideal_output_decodes_to_the_target():
    task = Regression(reads="xy").fit(np.random.default_rng(0).normal(50, 9, (20, 2)))
    target = torch.tensor([[41.0, 60.0], [50.0, 50.0]])
    assert head(task).loss(head(task).ideal(target), target).max() == 0
    torch.testing.assert_close(task.decode(head(task).ideal(target)), target)
    assert task.as_answer(target) is target
    assert head(task)(Features((), torch.zeros(2, 5), torch.zeros(2, 5))).shape == (2, 2)


def test_mean_and_std_are_not_in_the_state_dict():
    assert set(head(Regression(mean=(1.0,), std=(2.0,))).state_dict()) == {
        "answer.1.weight",
        "answer.1.bias",
    }


@pytest.mark.parametrize("offset", [0.0, 100_000.0])
def test_metrics_do_not_depend_on_the_batches_or_on_an_offset(offset):
    g = np.random.default_rng(2)
    true = np.round(g.normal(0, 8, (90, 2)) * [1, 5] + offset)
    predicted = np.round(true + g.normal(1, 4, (90, 2)))
    task = Regression(reads="xy", outputs=("x", "y")).fit(true)
    r2 = 1 - ((predicted - true) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)
    expected = {
        "mae": np.abs(predicted - true).mean(),
        "rmse": np.sqrt(((predicted - true) ** 2).mean()),
        "r2": r2.mean(),
        "mae_x": np.abs(predicted - true)[:, 0].mean(),
        "mae_y": np.abs(predicted - true)[:, 1].mean(),
    }
    for size in (1, 7, 90):
        metrics = task.metrics()
        for start in range(0, 90, size):
            for metric in metrics.values():
                metric.update(
                    *(torch.from_numpy(x[start : start + size]).float() for x in (predicted, true))
                )
        assert {name: float(m.compute()) for name, m in metrics.items()} == pytest.approx(
            expected, abs=1e-4
        )
    assert [m.higher_is_better for m in metrics.values()] == [False, False, True, False, False]
    assert all(m.update_called for m in metrics.values())


def test_r2_of_a_single_sample_is_nan():
    metric = Regression(mean=(0.0,), std=(1.0,), outputs=("0",)).metrics()["r2"]
    metric.update(torch.ones(1, 1), torch.zeros(1, 1))
    assert math.isnan(float(metric.compute()))


def test_the_drawing_shows_the_numbers():
    one = Regression(mean=(0.0,), std=(1.0,), outputs=("age",))
    image = torch.zeros(3, 64, 64)
    assert not torch.equal(
        one.draw(image, torch.tensor([31.0])), one.draw(image, torch.tensor([32.0]))
    )
    two = Regression(mean=(0.0, 0.0), std=(1.0, 1.0), outputs=("x", "y"))
    assert two.draw(image, torch.tensor([0.1, 0.2])).shape == image.shape
