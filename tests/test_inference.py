"""Pretexts add nothing to inference: hybrid and supervised runs have the same network there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import evolve
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.puzzling import Puzzling
from test_preview import noise_experiment
from toys import experiment

from mtlcore import MtlError
from mtlcore.config.experiment import Experiment
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.evaluation.evaluate import inference_network
from mtlcore.model.hybrid import HybridModel
from mtlcore.model.inference import Inference
from mtlcore.runs import RunFolder
from mtlcore.training.trainer import train


def trained(experiment: Experiment, out: Path) -> Inference:
    """Train two steps, and return the inference network of the saved run."""
    short = evolve(
        experiment,
        train=evolve(experiment.train, steps=2),
        schedule=evolve(experiment.schedule, name="constant", warmup=0),
        input=evolve(experiment.input, batch_size=4),
    )
    run = train(short, out).run
    return inference_network(short, RunFolder.open(run).require("last"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inference, Inference]:
    """Return the networks of an HMTL run with two pretexts and of an SL run."""
    pretexts = {"puzzling": Puzzling(grid=2, head="spatial"), "inpainting": Inpainting()}
    hybrid = noise_experiment(pretexts, tasks=("fer",), encoder=ResnetSmall(width=4, depths=(1, 1)))
    folder = tmp_path_factory.mktemp("runs")
    supervised = evolve(hybrid, pretexts={})
    return trained(hybrid, folder / "hmtl"), trained(supervised, folder / "sl")


def shapes(net: Inference) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def test_both_networks_have_the_same_parameters(networks):
    hybrid, supervised = map(shapes, networks)
    assert hybrid == supervised
    assert any(k.startswith("heads.fer.") for k in hybrid)
    assert not any("puzzling" in k or "inpainting" in k for k in hybrid)


def test_both_networks_have_the_same_traced_graph(networks):
    images = torch.rand(2, 3, 24, 24)
    hybrid, supervised = (str(torch.export.export(net, (images,)).graph) for net in networks)
    assert "convolution" in hybrid or "conv2d" in hybrid
    assert hybrid == supervised


def test_both_networks_predict_differently_since_their_training_differs(networks):
    images = torch.rand(4, 3, 24, 24)
    hybrid, supervised = (net(images)["fer"] for net in networks)
    assert hybrid.shape == supervised.shape
    assert not torch.allclose(hybrid, supervised)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(3, 32, 32),
    ],
    ids=["uint8", "four channels", "one image"],
)
def test_images_that_are_not_float_rgb_batches_are_refused(images) -> None:
    model = HybridModel(experiment(("fer",))).inference()
    with pytest.raises(MtlError, match=r"expected \(B, 3, H, W\) float in \[0, 1\]"):
        model(images)
