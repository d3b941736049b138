"""Hardware that a run asks for and this machine lacks; and weights that overflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from attrs import evolve
from dots_run import BODY, DOTS, PUZZLING, TRAIN, weights
from toys import experiment

from mtlcore import Diverged, MtlError
from mtlcore.config import load
from mtlcore.files import flush_folder
from mtlcore.rng import Rng
from mtlcore.runs import RunFolder
from mtlcore.training.devices import fabric_for
from mtlcore.training.trainer import Trainer


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_the_gpu_of_a_mac_is_an_accelerator_that_this_machine_lacks() -> None:
    exp = experiment()
    mac = evolve(exp, train=evolve(exp.train, accelerator="mps"))
    with pytest.raises(MtlError, match=r'train\.accelerator = "mps": torch finds no GPU of a Mac'):
        fabric_for(mac)


def test_more_processes_than_the_machine_can_run_are_refused_before_they_start() -> None:
    exp = experiment()
    for accelerator in ("cpu", "auto"):
        many = evolve(exp.train, devices=4096, accelerator=accelerator)
        with pytest.raises(MtlError, match=r"train\.devices = 4096: this machine runs at most"):
            fabric_for(evolve(exp, train=many))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_no_step_of_an_optimizer_searches_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    exp = experiment()
    fabric_for(evolve(exp, train=evolve(exp.train, accelerator="cpu")))
    searches: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: searches.append(1) or 0)
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    torch.optim.AdamW([weight], fused=True).step()
    assert not searches


def test_draws_are_copied_to_a_device_without_pinned_memory() -> None:
    draw = Rng(torch.Generator().manual_seed(0), torch.device("meta")).rand(3)
    assert draw.device.type == "meta"


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    file = tmp_path / "dots.toml"
    file.write_text(f'plugins = ["{DOTS}"]\n{BODY}{PUZZLING}{TRAIN}')
    trainer = Trainer(load(file, ["train.ema=0.5"]), tmp_path / "run")
    trainer.step()
    trainer.save()
    trainer.lr = 1e300  # the gradients of this step are finite, its update is not
    trainer.step()
    assert trainer.skipped == 0
    for call in (trainer.save, trainer.run):
        with pytest.raises(Diverged, match=r"a weight is not finite.*this step is not saved"):
            call()
    assert RunFolder(tmp_path / "run").require().step == 1
    assert all(bool(t.isfinite().all()) for t in weights(tmp_path / "run").values())


def test_a_folder_that_the_system_cannot_open_is_not_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))  # as Windows does

    monkeypatch.setattr(os, "open", refuse)
    flush_folder(tmp_path)
