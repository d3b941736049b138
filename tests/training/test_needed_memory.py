"""A run that can't fit into memory is refused before it takes any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import evolve
from dots_run import BODY, DOTS, PUZZLING, TRAIN
from torch import nn
from toys import experiment as setting
from toys import train_state

from mtlcore import Input, MtlError
from mtlcore.config import load
from mtlcore.data.cache import MemoryImageCache
from mtlcore.encoders import ResnetSmall
from mtlcore.optimizers import AdamW
from mtlcore.training.hints import short_for_ema
from mtlcore.training.needed_memory import (
    GIB,
    AvailableMemory,
    NeededMemory,
    RefuseHugeNetworks,
    memory_of_batches,
    memory_of_images,
    memory_of_network,
)
from mtlcore.training.trainer import train


def test_memory_over_80_percent_is_a_warning_and_over_100_an_error() -> None:
    needed = NeededMemory(images=GIB, batch=6 * GIB, network=GIB)
    assert needed.check(10 * GIB, "this process") is None
    warning = needed.check(9 * GIB, "this process")
    assert warning is not None
    assert "at least 8.0 GiB of memory (images 1.0, batch 6.0, network 1.0)" in warning
    assert "this process has 9.0 GiB: set a smaller input.batch_size" in warning
    with pytest.raises(MtlError, match=r"this process has 7\.0 GiB"):
        needed.check(7 * GIB, "this process")


def test_a_gpu_holds_the_network_and_the_host_the_images() -> None:
    memory = AvailableMemory(host=2 * GIB, device=4 * GIB)
    assert memory.check(NeededMemory(images=GIB, batch=3 * GIB)) == []
    assert "this GPU has 4.0 GiB" in memory.check(NeededMemory(batch=3 * GIB, network=GIB))[0]
    with pytest.raises(MtlError, match=r"this process has 2\.0 GiB: set a smaller input\.cache"):
        memory.check(NeededMemory(images=3 * GIB))


def test_the_estimate_counts_what_a_step_keeps() -> None:
    exp = evolve(
        setting(("gender",), size=32, encoder=ResnetSmall(width=4)), input=Input(32, batch_size=8)
    )
    images = MemoryImageCache(torch.zeros(10, 3, 48, 48, dtype=torch.uint8))
    needed = memory_of_batches(exp, 1, AvailableMemory(2**24))
    assert memory_of_images(images) == 10 * 3 * 48 * 48

    state = train_state(exp)
    kept: dict[int, torch.Tensor] = {}
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    )
    with hooks:
        features = state.model.encoder(torch.zeros(8, 3, 32, 32))
    own = {p.data_ptr() for p in state.model.parameters()}
    real = sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)
    assert needed.batch == pytest.approx(real + 8 * 4 * 3 * 32 * 32, rel=0.1)
    del features

    weights = sum(p.nbytes for p in state.model.parameters())
    buffers = sum(b.nbytes for b in state.model.buffers())
    adamw = evolve(exp, optimizer=AdamW())
    assert memory_of_network(state.model, adamw) == 4 * weights + buffers


def test_activations_are_left_out_where_they_can_be_ignored_or_not_measured() -> None:
    exp = evolve(
        setting(("gender",), size=32, encoder=ResnetSmall(width=4)), input=Input(32, batch_size=8)
    )
    only_pixels = NeededMemory(0, 8 * 4 * 3 * 32 * 32)
    assert memory_of_batches(exp, 1, AvailableMemory(2**40)) == only_pixels


def test_a_huge_network_is_refused_before_it_is_built() -> None:
    with RefuseHugeNetworks(2**20):
        nn.Linear(100, 100)
        torch.rand(3, generator=torch.Generator())
    with pytest.raises(MtlError, match="set a smaller encoder"), RefuseHugeNetworks(2**20):
        nn.Linear(2**20, 2**20)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("encoder.width=2048", "set a smaller encoder"),
        ("input.size=16384", "set a smaller input.batch_size or input.size"),
        ("input.batch_size=1000000", "batch"),
        ("input.size=4096", "batch"),
    ],
)
def test_a_run_that_cannot_fit_is_one_message_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, named: str
) -> None:
    monkeypatch.setattr("mtlcore.training.needed_memory.usable_memory", lambda: GIB // 2)
    file = tmp_path / "dots.toml"
    file.write_text(f'plugins = ["{DOTS}"]\n{BODY}{PUZZLING}{TRAIN}')
    with pytest.raises(MtlError, match="this run needs at least") as error:
        train(load(file, (override,)), tmp_path / "run")
    assert named in str(error.value)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------- EMA


def test_an_ema_that_is_too_slow_for_the_run_is_told(subtests: pytest.Subtests) -> None:
    for momentum, steps, fitting in [
        (0.9999, 500, "0.99"),
        (0.999, 60, "0.92"),
        (0.99, 50, "0.91"),
        (0.99, 500, None),
        (0, 1, None),
    ]:
        with subtests.test(momentum=momentum, steps=steps, fitting=fitting):
            exp = setting(("gender",))
            found = short_for_ema(evolve(exp, train=evolve(exp.train, ema=momentum)), steps)
            if fitting is None:
                assert found == []
                return
            assert f"set train.ema = {fitting}, or train longer" in found[0]
            assert float(fitting) ** steps < 0.05
