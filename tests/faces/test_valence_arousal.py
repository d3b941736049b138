"""Valence and arousal: concordance over all samples, and missing labels."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from mtl_faces.valence_arousal import ValenceArousal
from toys import experiment

from mtlcore.config.experiment import TaskEntry
from mtlcore.model.hybrid import HybridModel


def fitted() -> ValenceArousal:
    g = np.random.default_rng(0)
    return ValenceArousal().fit(g.uniform(-1, 1, (50, 2)))  # type: ignore[return-value]


def test_numbers_outside_of_minus_one_to_one_are_missing_labels():
    annotation = np.array([[0.5, -0.5], [-2, -2], [np.nan, np.nan], [1, -1], [0.1, 1.5]])
    task = ValenceArousal().fit(annotation)
    assert task.outputs == ("valence", "arousal")
    assert task.mean == (0.75, -0.75)
    target, present = task.target(annotation)
    assert present.tolist() == [True, False, False, True, False]
    assert target.tolist() == [[0.5, -0.5], [0, 0], [0, 0], [1, -1], [0, 0]]


def lin(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Lin's coefficient (1989), over all samples at once."""
    covariance = ((predicted - predicted.mean(0)) * (true - true.mean(0))).mean(0)
    return (
        2 * covariance / (predicted.var(0) + true.var(0) + (predicted.mean(0) - true.mean(0)) ** 2)
    )


def test_concordance_is_over_all_samples_for_any_batch_size():
    g = np.random.default_rng(1)
    true = g.uniform(-1, 1, (103, 2))
    predicted = np.clip(0.6 * true + 0.2 + g.normal(0, 0.3, (103, 2)), -1, 1)
    expected = lin(predicted, true)
    for size in (1, 2, 10, 102, 103):
        metrics = fitted().metrics()
        for start in range(0, 103, size):
            part = slice(start, start + size)
            output, target = (torch.from_numpy(x[part]).float() for x in (predicted, true))
            for metric in metrics.values():
                metric.update(output, target)
        found = {name: float(metric.compute()) for name, metric in metrics.items()}
        both = [found["ccc_valence"], found["ccc_arousal"]]
        assert both == pytest.approx(expected.tolist(), abs=1e-5)
        assert found["ccc"] == pytest.approx(float(expected.mean()), abs=1e-5)
        mae = float(np.abs(predicted - true)[:, 0].mean())
        assert found["mae_valence"] == pytest.approx(mae, abs=1e-5)
    assert next(iter(metrics)) == "ccc"
    assert metrics["ccc"].higher_is_better is True


def test_the_concordance_of_a_constant_prediction_is_0():
    metric = fitted().metrics()["ccc"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric.update(torch.full((9, 2), 0.3), torch.linspace(-1, 1, 18).view(9, 2))
        assert float(metric.compute()) == pytest.approx(0, abs=1e-6)
        metric.reset()
        metric.update(torch.full((9, 2), 0.3), torch.full((9, 2), 0.3))
        assert float(metric.compute()) == 0


def test_predictions_are_clamped_to_the_scale():
    assert fitted().decode(torch.tensor([[100.0, -100.0]])).tolist() == [[1.0, -1.0]]


def test_it_is_trained_as_a_regression():
    exp = experiment((), ())
    exp.tasks["va"] = TaskEntry(fitted())
    head = HybridModel(exp).heads["va"]
    target = torch.tensor([[0.5, -0.25], [0.0, 1.0]])
    assert head.loss(head.ideal(target), target).tolist() == [0, 0]  # type: ignore[operator]
    decoded = fitted().decode(head.ideal(target))  # type: ignore[operator]
    torch.testing.assert_close(decoded, target)
