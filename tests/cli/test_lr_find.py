"""`mtl lr-find`: real steps with a growing learning rate, and no trace of a run."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from attrs import evolve
from dots_run import tiny_toml
from PIL import Image

from mtlcore import MtlError, Trainer
from mtlcore.cli import main
from mtlcore.config import load
from mtlcore.training.lr_find import range_test

TRAIN = 'steps = 4\naccelerator = "cpu"'


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "dots.toml"
    file.write_text(tiny_toml(TRAIN, batch_size=32))
    return file


def test_the_suggestion_is_where_the_smoothed_loss_falls_fastest(config):
    found = range_test(load(config), 1e-6, 1.0, 60)
    ratios = np.diff(np.log(found.lrs))
    np.testing.assert_allclose(ratios, ratios[0])
    lowest = int(np.argmin(found.losses)) + 1
    slopes = np.gradient(found.losses[:lowest], np.log(found.lrs[:lowest]))
    assert found.lr == found.lrs[int(np.argmin(slopes))]
    assert 1e-4 < found.lr < 0.3
    # The first losses hardly change, since the first learning rates are too low for that.
    assert abs(found.losses[3] - found.losses[0]) < max(found.losses) - min(found.losses)


def test_the_command_prints_what_to_type_draws_a_plot_and_writes_nothing_else(config, capsys):
    pytest.importorskip("matplotlib")
    plot = config.parent / "plot.png"
    assert main(["lr-find", str(config), "--steps", "30", "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "the loss falls fastest at optimizer.lr = " in printed
    assert f"use it: mtl train {config} --set optimizer.lr=" in printed
    assert np.ptp(np.asarray(Image.open(plot))) > 0
    assert sorted(file.name for file in config.parent.iterdir()) == ["dots.toml", "plot.png"]


def test_bad_options_are_refused_before_any_step(config, monkeypatch, capsys):
    assert main(["lr-find", str(config), "--low", "1", "--high", "0.1"]) == 2
    assert "expected --low below --high" in capsys.readouterr().err
    assert main(["lr-find", str(config), "--plot", "plot.jpg"]) == 2
    assert "expected a PNG file" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["lr-find", str(config), "--plot", str(config.parent / "plot.png")]) == 2
    assert "type `pip install matplotlib`" in capsys.readouterr().err


def test_a_first_loss_that_is_not_finite_is_an_error(config, monkeypatch):
    monkeypatch.setattr(Trainer, "step", lambda self: {"quarter": torch.tensor(float("nan"))})
    with pytest.raises(MtlError, match="the loss of the first step is nan"):
        range_test(load(config), 1e-6, 1.0, 10)


def test_a_task_whose_labels_come_later_and_seldom_is_no_divergence(config, monkeypatch):
    """Its first loss would look like a jump, and each step without its labels like a fall."""
    steps = iter(range(30))

    def step(trainer: Trainer) -> dict[str, torch.Tensor]:
        at = next(steps)
        losses = {"quarter": torch.tensor(1.0 - at / 60)}
        return losses | ({"rare": torch.tensor(9.0 - at / 10)} if at % 4 == 2 else {})

    monkeypatch.setattr(Trainer, "step", step)
    given = load(config)
    given = evolve(given, tasks={**given.tasks, "rare": given.tasks["quarter"]})
    found = range_test(given, 1e-6, 1.0, 30)
    assert len(found.lrs) == 28  # from the step in which each task has a loss
    assert list(found.losses) == sorted(found.losses, reverse=True)


def test_a_loss_that_falls_nowhere_is_an_error(config):
    with pytest.raises(MtlError, match="does not fall from --low 900 to --high 1000: set"):
        range_test(load(config, ["optimizer.name=sgd"]), 900, 1000, 10)
