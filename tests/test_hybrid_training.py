"""The method on rendered faces: what must hold of any seed, not which arm is ahead. Evidence for that is in docs/method.md."""

from __future__ import annotations

import pytest

from mtlcore.config import load
from mtlcore.demo import Arm, arms, run_arm
from mtlcore.train.watch import Silent

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
train = 1500
test = 400
size = 40
[input]
size = 40
batch_size = 32
validation = 0.1
[augment]
name = "none"
crop = [0.9, 1.0]
[recipes.validation]
crop = 0.95
[train]
steps = 250
lr = 3e-3
warmup = 20
eval_every = 0
tensorboard = false
"""
EMOTIONS, PLACES = 8, 4
DEVIATION = (1 / EMOTIONS * (1 - 1 / EMOTIONS) / 400) ** 0.5  # of a blind guess's accuracy on 400 faces: 0.017


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Arm]:
    folder = tmp_path_factory.mktemp("hybrid")
    (folder / "faces.toml").write_text(EXPERIMENT)
    both = arms(load(folder / "faces.toml"))
    return {name: run_arm(name, experiment, folder, Silent()) for name, experiment in both.items()}


@pytest.mark.parametrize("arm", ["SL", "HMTL"])
def test_emotions_are_told_far_better_than_by_guessing(trained, arm):
    assert trained[arm].test["fer/accuracy"] > 1 / EMOTIONS + 6 * DEVIATION


def test_the_puzzle_is_solved_far_better_than_by_guessing(trained):
    assert trained["HMTL"].pretexts["puzzling/accuracy"] > 2 / PLACES


def test_the_missing_pixels_are_restored_better_than_by_the_mean(trained):
    assert trained["HMTL"].pretexts["inpainting/over_mean"] < 0.9


def test_supervised_alone_has_no_pretext(trained):
    assert not trained["SL"].pretexts
