"""The purposes of random draws are data: with another spelling, no run can be reproduced."""

from __future__ import annotations

from mtlcore import rng
from mtlcore.data.splits import generator

PURPOSES = {
    "WEIGHTS": "weights",
    "DROPOUT": "dropout",
    "WEIGHTING": "weighting",
    "AUGMENT": "augment",
    "FINISH": "finish",
    "CONTROL": "control",
    "VIEW": "view",
    "LABELED": "labelled",
    "UNLABELED": "unlabelled",
    "TEST": "test",
    "VALIDATION": "validation",
    "LIMIT": "limit",
    "LABELS": "labels",
}


def test_purposes_are_frozen():
    found = {k: v for k, v in vars(rng).items() if k.isupper() and isinstance(v, str)}

    assert found == PURPOSES


def test_seeds_of_a_step_are_frozen():
    keyed_rng = rng.KeyedRng((3, 17, 1))

    assert keyed_rng.seed(rng.AUGMENT, 0, None) == 30265708674951692
    assert keyed_rng.seed("puzzling", rng.CONTROL) == 47921570403347775


def test_draws_of_splits_are_frozen():
    drawn = generator(3, f"{rng.LABELED} fer2013", 2).permutation(8)

    assert drawn.tolist() == [1, 5, 3, 2, 0, 4, 6, 7]
