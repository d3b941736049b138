"""Every dense task passes the conformance kit, also with the fields that change it most."""

from __future__ import annotations

import pytest

import mtlcore.testing as kit

VARIANTS = {
    "segmentation": ({"classes": ("a", "b", "c")}, [{}, {"normalize": "batch"}, {"dice": 1.0}]),
    "dense_regression": ({}, [{}, {"positive": False}, {"normalize": "batch", "loss": "huber"}]),
    "surface_normals": ({}, [{}, {"y": "up", "normalize": "batch"}]),
    "landmarks": ({"points": 4, "flip_pairs": ((0, 1),)}, [{}, {"method": "heatmaps"}]),
    "face_landmarks": ({}, [{}]),
    "age": ({}, [{}]),
}
CASES = [(name, fields | other) for name, (fields, others) in VARIANTS.items() for other in others]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fields"), CASES)
def test_a_dense_task_conforms(name, fields):
    report = kit.conformance("task", name, examples=3, **fields).report()
    assert not report.of("failed", "blocked", "xfailed"), report.failures()
    assert report.counts["ran"] > 38
