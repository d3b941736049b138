"""The two classifiers of the probe, against scikit-learn and a loop; and probes of real runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mtlcore import MtlError
from mtlcore.callbacks.probe import Probe, knn, linear, spread
from mtlcore.config import load
from mtlcore.data.dataset import open_data
from mtlcore.evaluation.evaluate import inference_network
from mtlcore.runs import RunFolder
from mtlcore.training.trainer import train

DOTS = Path(__file__).resolve().parent / "dots.py"
CONFIG = f"""
plugins = ["{DOTS}"]
[encoder]
width = 4
[pretext.puzzling]
grid = 2
[data.dots]
n = 300
[input]
size = 16
batch_size = 16
validation = 0.2
[augment]
name = "validation"
crop = 1.0
[augment.validation]
crop = 1.0
[optimizer]
lr = 3e-3

[schedule]
warmup = 4

[train]
epochs = 4
eval_every = 0
"""
TASK = '[task.quarter]\nname = "classification"\n'


def clouds(n: int, classes: int = 3, dim: int = 8, seed: int = 0, noise: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    y = torch.randint(classes, (n,), generator=g)
    return centers[y] + noise * torch.randn(n, dim, generator=g), y


def run(tmp_path: Path, text: str, *overrides: str) -> RunFolder:
    (tmp_path / "run.toml").write_text(text)
    train(load(tmp_path / "run.toml", overrides), tmp_path / "run")
    return RunFolder(tmp_path / "run")


# ---------------------------------------------------------------------------- the classifiers


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0])
def test_the_linear_probe_predicts_like_the_logistic_regression_of_scikit_learn(noise):
    (x, y), (new, _) = clouds(120, noise=noise), clouds(400, seed=1, noise=noise)
    mean, std = x.mean(0), x.std(0, correction=0)
    theirs = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(
        ((x - mean) / std).numpy(), y.numpy()
    )
    expected = theirs.predict(((new - mean) / std).numpy())
    assert float((linear(x, y, 3, new).numpy() == expected).mean()) >= 0.995


def test_the_knn_probe_is_the_weighted_vote_of_the_nearest():
    """Against a loop over images."""
    (x, y), (new, _) = clouds(60, seed=3), clouds(40, seed=4)
    expected = []
    for features in new:
        cosines = [float(features @ other / features.norm() / other.norm()) for other in x]
        votes = np.zeros(3)
        for i in np.argsort(cosines)[-7:]:
            votes[int(y[i])] += np.exp(cosines[i] / 0.07)
        expected.append(int(votes.argmax()))
    assert knn(x, y, 3, new, 7).tolist() == expected


def test_more_neighbors_than_samples_and_a_constant_feature_work():
    x, y = clouds(9)
    x[:, 2] = 5.0
    assert knn(x, y, 3, x, 500).shape == (9,)
    assert torch.equal(linear(x, y, 3, x), y)


def test_a_large_dataset_is_probed_on_samples_spread_over_all_of_it():
    assert spread(3, 5).tolist() == [0, 1, 2]
    assert spread(10, 4).tolist() == [0, 2, 5, 7]


def test_features_without_information_reach_chance():
    g = torch.Generator().manual_seed(0)
    x, new = torch.randn(300, 8, generator=g), torch.randn(600, 8, generator=g)
    y, wanted = torch.randint(4, (300,), generator=g), torch.randint(4, (600,), generator=g)
    for guess in (linear(x, y, 4, new), knn(x, y, 4, new, 20)):
        assert 0.18 < float((guess == wanted).float().mean()) < 0.32


# ---------------------------------------------------------------------------- in runs


def test_a_pretext_is_probed_on_an_annotation_which_can_name_the_best_checkpoint(tmp_path):
    folder = run(
        tmp_path,
        CONFIG + '[callback.probe]\nreads = ["quarter"]\n',
        "train.best='probe/quarter/linear'",
    )
    accuracy = {}
    for row in folder.log.rows():
        if "validation/probe/quarter/knn" in row:
            accuracy[row["step"]] = row["validation/probe/quarter/linear"]
    assert list(accuracy) == [12, 24, 36, 48]  # 192 training samples: an epoch is 12 steps
    assert accuracy[48] > 0.45  # chance: 0.25
    assert folder.require("best").step == max(accuracy, key=lambda step: (accuracy[step], -step))
    assert folder.provenance()["validation"]["probe/quarter/linear"] == accuracy[48]


def test_it_probes_every_nth_epoch_and_at_the_end(tmp_path):
    folder = run(tmp_path, CONFIG + TASK + "[callback.probe]\nevery = 3\n", "data.dots.labels=0.5")
    steps = [r["step"] for r in folder.log.rows() if "validation/probe/quarter/linear" in r]
    steps_per_epoch = 6  # half of the labels: 96 samples
    assert steps == [3 * steps_per_epoch, 4 * steps_per_epoch]


@pytest.mark.parametrize("ema", [pytest.param("0", marks=pytest.mark.slow), "0.9"])
def test_it_probes_the_inference_network_on_the_labeled_training_samples(tmp_path, ema):
    """Computed again from the saved weights: those of the EMA if the run has one."""
    overrides = (f"train.ema={ema}", "data.dots.labels=0.5", 'data.dots.unlabeled="keep"')
    folder = run(tmp_path, CONFIG + TASK + "[callback.probe]\n", *overrides)
    exp = load(folder.config)
    data, net = (
        open_data(exp, {"train", "validation"}).data,
        inference_network(exp, folder.require()),
    )
    indices = {split: torch.from_numpy(data.split[split]) for split in ("train", "validation")}
    indices["train"] = indices["train"][data.present["quarter"][indices["train"]]]
    assert len(indices["train"]) == 96
    probed = {}
    with torch.no_grad():
        for split, index in indices.items():
            images = data.images.take(index.numpy()).images.float() / 255
            probed[split] = net.encoder(images).pooled, data.targets["quarter"][index]
    (x, y), (new, expected) = probed["train"], probed["validation"]
    metrics = folder.provenance()["validation"]
    for kind, predicted in (("linear", linear(x, y, 4, new)), ("knn", knn(x, y, 4, new, 20))):
        accuracy = float((predicted == expected).float().mean())
        assert metrics[f"probe/quarter/{kind}"] == accuracy


def test_a_run_without_classes_must_set_what_to_probe(tmp_path):
    with pytest.raises(MtlError, match=r"callback\.probe.*reads = "):
        run(tmp_path, CONFIG + "[callback.probe]\n")


def test_an_annotation_that_training_does_not_use_is_missing_there_alone(tmp_path):
    (tmp_path / "run.toml").write_text(CONFIG)
    exp = load(tmp_path / "run.toml", ["data.dots.labels=0.5", 'data.dots.unlabeled="keep"'])
    data = open_data(exp, {"train", "validation"}).data
    values = data.annotation("quarter", np.arange(len(data)))
    assert len(values) == len(data)
    assert int((values[data.split["train"]] == "").sum()) == 96
    keys = data.keys(np.arange(len(data)))
    names = np.array(["a", "b", "c", "d"])[[int(key.removeprefix("dot")) % 4 for key in keys]]
    given = values != ""
    assert (values[given] == names[given]).all()
    assert given[data.split["validation"]].all()
    with pytest.raises(MtlError, match="did you mean 'quarter'"):
        data.annotation("quartr", np.arange(3))


def test_its_metrics_are_known_before_the_run():
    assert Probe(reads=("emotion",)).figures(None) == {"emotion/linear": True, "emotion/knn": True}
