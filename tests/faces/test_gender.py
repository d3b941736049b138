"""Gender: a fixed order of outputs, and metrics by group."""

from __future__ import annotations

import numpy as np
import torch
from mtl_faces.gender import Gender


def test_the_order_of_the_outputs_is_fixed_for_any_training_set():
    fitted = Gender().fit(np.array(["female", "female", ""]))
    assert fitted.classes == ("male", "female")
    target, present = fitted.target(np.array(["female", "male", "", "unknown"]))
    assert target.tolist() == [1, 0, 0, 0]
    assert present.tolist() == [True, True, False, False]
    assert fitted.fit(np.array([], dtype=str)) == fitted


def test_metrics_are_reported_by_race_and_age_band():
    assert Gender().reads == "gender"
    assert Gender().by == ("race", "age_band")
    assert Gender(by=()).by == ()


def test_accuracy_comes_first_and_counts_hits():
    metrics = Gender().metrics()
    assert next(iter(metrics)) == "accuracy"
    metrics["accuracy"].update(
        torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), torch.tensor([0, 1, 1])
    )
    assert abs(float(metrics["accuracy"].compute()) - 2 / 3) < 1e-6
