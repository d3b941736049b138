"""Nothing is added at inference time: the network that a hybrid run keeps is the one of a supervised run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import evolve
from mtl_pretexts.inpainting import Inpainting
from mtl_pretexts.puzzling import Puzzling
from test_preview import looked_at

from mtlcore.config.experiment import Experiment
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.evaluation.evaluate import inference_network
from mtlcore.model.inference import Inference
from mtlcore.runs import RunFolder
from mtlcore.train.trainer import train


def kept(experiment: Experiment, out: Path) -> Inference:
    """What is left of a real run: trained, saved, read back."""
    few = evolve(experiment.train, steps=2, tensorboard=False, schedule="constant", warmup=0)
    batch = evolve(experiment.input, batch_size=4)
    ready = evolve(experiment, train=few, input=batch)
    run = train(ready, out).run
    return inference_network(ready, RunFolder.open(run).require("last"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inference, Inference]:
    """-> of an HMTL run with two pretexts, of an SL run."""
    pretexts = {"puzzling": Puzzling(grid=2, head="spatial"), "inpainting": Inpainting()}
    hybrid = looked_at(pretexts, tasks=("fer",), encoder=ResnetSmall(width=4, depths=(1, 1)))
    folder = tmp_path_factory.mktemp("runs")
    return kept(hybrid, folder / "hmtl"), kept(evolve(hybrid, pretexts={}), folder / "sl")


def test_a_hybrid_run_keeps_parameters_of_the_same_names_and_shapes(networks):
    hybrid, supervised = (
        {k: tuple(v.shape) for k, v in net.state_dict().items()} for net in networks
    )
    assert hybrid == supervised
    assert any(k.startswith("heads.fer.") for k in hybrid)
    assert not any("puzzling" in k or "inpainting" in k for k in hybrid)


def test_a_hybrid_run_keeps_the_same_traced_graph(networks):
    images = torch.rand(2, 3, 24, 24)
    hybrid, supervised = (str(torch.export.export(net, (images,)).graph) for net in networks)
    assert "convolution" in hybrid or "conv2d" in hybrid
    assert hybrid == supervised


def test_the_two_answer_differently_so_they_are_two_trainings(networks):
    images = torch.rand(4, 3, 24, 24)
    hybrid, supervised = (net(images)["fer"] for net in networks)
    assert hybrid.shape == supervised.shape
    assert not torch.allclose(hybrid, supervised)
