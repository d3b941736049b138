"""FER: the order of the emotions is fixed, whichever a dataset has."""

from __future__ import annotations

import numpy as np
from mtl_faces.emotion import Fer, mtl_examples
from mtl_faces.emotions import Emotion

from mtlcore.config import load

AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")


def test_the_order_is_affectnets_for_any_training_set():
    some = np.asarray(["anger", "happiness", ""])
    assert Fer().fit(some).classes == AFFECTNET
    assert Fer(emotions=7).fit(some).classes == AFFECTNET[:7]
    assert tuple(Emotion) == AFFECTNET


def test_inverse_weights_follow_the_counts_and_absent_classes_count_as_the_mean_sample():
    fitted = Fer(emotions=7, balance="inverse").fit(np.asarray(["anger"] * 3 + ["happiness"]))
    weights = dict(zip(fitted.classes, fitted.class_weights))
    assert weights["happiness"] == 3 * weights["anger"]
    assert 3 * weights["anger"] + weights["happiness"] == 4  # mean 1 over the four samples
    assert {weights[name] for name in fitted.classes if name not in ("anger", "happiness")} == {1}


def test_the_demo_is_a_complete_experiment():
    demo = load(mtl_examples()["demo"])
    assert "fer" in demo.tasks
    assert "puzzling" in demo.pretexts
