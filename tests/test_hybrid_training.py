"""Both arms train on rendered faces. The tests check what must hold for every seed.

Which arm is better is not tested here: docs/method.md has the evidence.
"""

from __future__ import annotations

import pytest

import mtlcore

EXPERIMENT = """
seed = 0
[encoder]
name = "resnet_small"
width = 16
stem_stride = 2
[task.fer]
[pretext.puzzling]
grid = 2
head = "spatial"
weight = 0.3
[pretext.inpainting]
perceptual = "none"
[data.synthfaces]
train = 1200
test = 400
size = 32
[input]
size = 32
batch_size = 32
validation = 0.1
[augment]
name = "none"
crop = [0.9, 1.0]
[augment.validation]
crop = 0.95
[optimizer]
lr = 3e-3

[schedule]
warmup = 20

[train]
steps = 250
eval_every = 0
"""
EMOTIONS = 8
PLACES = 4

# Standard deviation of a random guess's accuracy on 400 faces: 0.017.
DEVIATION = (1 / EMOTIONS * (1 - 1 / EMOTIONS) / 400) ** 0.5


@pytest.mark.slow
def test_both_arms_learn_and_the_pretexts_are_solved(tmp_path):
    """Emotions and tiles far above chance, missing pixels better than with their mean.

    One test, since training both arms takes half a minute.
    """
    (tmp_path / "faces.toml").write_text(EXPERIMENT)
    off = {"pretext.puzzling.weight": 0, "pretext.inpainting.weight": 0}
    for name, overrides in {"SL": off, "HMTL": {}}.items():
        run = mtlcore.train(tmp_path / "faces.toml", tmp_path / name, overrides, progress=False)
        assert run.evaluate().metrics["fer/accuracy"] > 1 / EMOTIONS + 6 * DEVIATION, name
    validation = run.summary["validation"]
    assert validation["puzzling/accuracy"] > 2 / PLACES
    assert validation["inpainting/over_mean"] < 0.9
