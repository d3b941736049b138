"""All dense tasks in one run: trained on every view, evaluated, predicted, drawn and exported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from aligned_toys import Scenes
from aligned_toys import __file__ as toys
from PIL import Image

from mtlcore import load_run
from mtlcore.cli import main
from mtlcore.deployment.graph import read_metadata

CONFIG = f"""
plugins = ["{toys}"]

[encoder]
name = "resnet_small"
width = 4

[task.classes]
name = "segmentation"
classes = ["dark", "bright"]
dice = 0.5

[task.depth]
name = "dense_regression"
scale = 4.0
decoder = "classes"

[task.normals]
name = "surface_normals"
normalize = "batch"

[task.corners]
name = "landmarks"
points = 3
method = "heatmaps"
norm = "pair"
norm_pair = [0, 1]

[pretext.puzzling]
grid = 2

[data.scenes]
n = 32
size = [44, 60]
every = 2
unlabeled = "keep"

[input]
size = [32, 48]
batch_size = 8
validation = 0.3

[views]
supervised = "both"

[augment]
name = "general"
mix = "cutmix"

[train]
steps = 3
"""


@pytest.mark.slow
def test_a_run_of_all_dense_tasks_is_trained_evaluated_predicted_drawn_and_exported(
    tmp_path, capsys
):
    config, run = tmp_path / "dense.toml", tmp_path / "run"
    config.write_text(CONFIG)
    assert main(["train", str(config), "--out", str(run)]) == 0
    losses = load_run(run).metrics()[-2:]
    assert any("loss/depth" in row for row in losses)

    plain = load_run(run).evaluate("validation")
    mirrored = load_run(run).evaluate("validation", mirror=True, per_sample=True)
    mains = ("classes/miou", "depth/abs_error", "normals/mean_deg", "corners/nme")
    for name in mains:
        assert np.isfinite(mirrored.metrics[name]), name
        assert plain.metrics[name] != mirrored.metrics[name], name
    assert np.array(mirrored.samples[0]["corners/prediction"]).shape == (3, 2)

    image = tmp_path / "scene.png"
    dataset = Scenes(n=1, size=(44, 60))
    Image.fromarray(dataset.decode(dataset.index(), 0).image).save(image)
    (found,) = load_run(run).predictor(mirror=True)(str(image))
    answers = found.answers
    assert np.array(answers["classes"]["map"]).shape == (32, 48)
    assert np.array(answers["depth"]["map"]).shape == (1, 32, 48)
    points = np.array(answers["corners"]["points"])
    assert (points > 0).all()
    assert (points < [60, 44]).all()

    capsys.readouterr()
    words = ["predict", str(run), str(image), "--draw", str(tmp_path / "drawn"), "--json"]
    assert main(words) == 0
    assert set(json.loads(capsys.readouterr().out)["answers"]) == set(answers)
    assert list((tmp_path / "drawn").glob("*.png"))

    for file_format in ("torch-export", "onnx"):
        exported = load_run(run).export(tmp_path / f"model.{file_format}", file_format)
        assert set(exported.agreement) == {"classes", "depth", "normals", "corners"}
        tasks = read_metadata(exported.path, file_format)["tasks"]
        assert (tasks["classes"]["names"], tasks["classes"]["unit"]) == (
            ["dark", "bright"],
            "probability",
        )
        assert tasks["corners"]["unit"] == "pixels of input.size"
