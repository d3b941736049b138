"""Data parallel: two gloo processes on half batches equal one process on the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import rank_worker
import torch
from lightning_fabric import Fabric

from mtlcore import Trainer
from mtlcore.cli import main
from mtlcore.config import load
from mtlcore.runs import RunFolder

HANG_S = 1800  # only ends a process that hangs
pytestmark = pytest.mark.timeout(2 * HANG_S)

DOTS_CONFIG = f"""
plugins = ["{Path(__file__).resolve().parents[1] / "dots.py"}"]

[encoder]
width = 4

[task.quarter]
name = "classification"
dropout = 0.0

[data.dots]

[input]
size = 16
batch_size = 16

[augment]
name = "kornia"
ops = [
  {{ op = "RandomResizedCrop", scale = [0.5, 1.0] }},
  {{ op = "RandAugment", n = 2, m = 9 }},
  {{ op = "mixup", alpha = 0.5 }},
  {{ op = "RandomErasing", after_pretext = true }},
]

[optimizer]
name = "sgd"

[train]
steps = 6
eval_every = 3
accelerator = "cpu"
"""


@pytest.fixture(scope="session")
def two_ranks(on_two_ranks):
    return on_two_ranks(rank_worker.run)


@pytest.mark.parametrize("name", rank_worker.CASES)
def test_two_ranks_equal_one_process_on_the_joined_batch(two_ranks, name):
    """With uneven labels, an absent task and uneven micro-batches; both ranks are bit-equal."""
    state, difference = two_ranks[name]
    one_process = rank_worker.train_case(Fabric(accelerator="cpu", devices=1), name)
    assert difference == 0
    # Two ranks add the same floats in another order than one process, and how the sums round
    # depends on the processor. The largest difference seen is 1.14e-5 (PCGrad).
    torch.testing.assert_close(state, one_process, atol=2e-5, rtol=0)


def test_ranks_agree_on_batch_norm_with_a_gradient_for_each_loss(two_ranks):
    assert two_ranks["batch norm"][1] == 0


PLAIN_PLUGIN = '''
import hashlib, os, signal
from attrs import frozen
from torch import nn
from mtlcore import Augmentation, Callback, Encoder, Features, Geometry, View, hookimpl

@frozen
class Plain(Encoder):
    """No batch statistics."""

    def build(self, size):
        return PlainNet()

class PlainNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

    def forward(self, x):
        x = self.one(x).relu()
        y = self.two(x).relu()
        return Features((x, y), y.mean((2, 3)), shared=y)

@frozen
class Noted(Augmentation):
    """Writes the seed and the images of each draw into a file of its process."""

    def view(self, images, size, rng):
        digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
        with open(os.path.join(os.environ["NOTES"], str(os.getpid())), "a") as file:
            file.write(f"{rng.generator.initial_seed()} {digest}\\n")
        noise = rng.rand(len(images), 1, 1, 1)
        return View(images / 255 * noise, Geometry.resize(images.shape[-2:], size, images))

@frozen
class Killer(Callback):
    """Kills the main process as soon as the checkpoint of a step is complete."""

    def on_checkpoint(self, run, checkpoint):
        if run.step == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

@hookimpl
def mtl_components():
    return [Plain, Noted, Killer]
'''

TAIL = "        self.tail = nn.Linear(8, 8)\n"


def with_tail(plugin: str) -> str:
    """Return the plugin with a layer of the encoder behind the maps, before `pooled`."""
    text = plugin.replace("nn.Conv2d(4, 8, 3, 2, 1)\n", "nn.Conv2d(4, 8, 3, 2, 1)\n" + TAIL)
    return text.replace("y.mean((2, 3)), shared", "self.tail(y.mean((2, 3))), shared")


RARE_PLUGIN = '''
import numpy as np
from attrs import frozen
from mtlcore import Dataset, Index, MapColumn, Sample, hookimpl

@frozen
class Rare(Dataset):
    """A map of classes for each sample, and a kind for each tenth."""

    def index(self):
        samples = np.arange(80)
        kind = np.where(samples % 10 == 0, np.where(samples % 20 == 0, "a", "b"), "")
        maps = {"classes": MapColumn(np.ones(80, bool), "uint8")}
        split = np.full(80, "train")
        return Index(samples.astype(str), {"kind": kind}, split=split, maps=maps)

    def decode(self, index, i):
        classes = np.random.default_rng(i).integers(0, 2, (16, 16), dtype=np.uint8)
        return Sample((classes[..., None] * 200).repeat(3, 2), {"classes": classes})

@hookimpl
def mtl_components():
    return [Rare]
'''

# Heads of maps do not reach the tail of the encoder. Most steps have no label of `kind`.
RARE_CONFIG = """
plugins = ["{rare}", "{plugin}"]

[encoder]
name = "plain"

[task.classes]
name = "segmentation"
classes = ["dark", "bright"]
width = 4

[task.depth]
name = "segmentation"
classes = ["low", "high"]
reads = "classes"
decoder = "classes"

[task.kind]
name = "classification"

[data.rare]

[input]
size = 16
batch_size = 4
validation = 0.0

[augment]
name = "none"

[train]
steps = 8
log_every = 1
accelerator = "cpu"
"""


def rare(folder: Path) -> Path:
    """Write a configuration in which most steps have no label of one task."""
    data, plugin, config = (folder / name for name in ("rare.py", "plain.py", "rare.toml"))
    data.write_text(RARE_PLUGIN)
    plugin.write_text(with_tail(PLAIN_PLUGIN))
    config.write_text(RARE_CONFIG.format(rare=data, plugin=plugin))
    return config


PLAIN_CONFIG = """
plugins = ["{dots}", "{plugin}"]

[encoder]
name = "plain"

[task.quarter]
name = "classification"
dropout = 0.2

[pretext.puzzling]
grid = 2
weight = 0.3

[callback.killer]

[data.dots]

[input]
size = 16
batch_size = 16
validation = 0.0

[augment]
name = "noted"

[optimizer]
name = "sgd"

[schedule]
warmup = 2

[train]
steps = 20
save_every = 7
log_every = 1
eval_every = 0
accelerator = "cpu"
"""


class Runs:
    """Runs of the command line with four micro-batches, on any number of processes."""

    def __init__(self, folder: Path, before: str = "") -> None:
        """before: a line of Python that each process runs first."""
        self.folder = folder
        self.config = folder / "plain.toml"
        plugin = folder / "plain.py"
        plugin.write_text(PLAIN_PLUGIN)
        dots = Path(__file__).resolve().parents[1] / "dots.py"
        self.config.write_text(PLAIN_CONFIG.format(dots=dots, plugin=plugin))
        self.code = folder / "mtl.py"
        self.code.write_text(
            f"import sys\nfrom mtlcore.cli import main\n{before}\nsys.exit(main())\n"
        )

    def start(self, name: str, ranks: int, kill_at: int = 0, settings: Sequence[str] = ()) -> None:
        out = ["--out", str(self.folder / name), "--set", "train.micro_batches=4"]
        words = [str(self.config), *out, "--set", f"train.devices={ranks}", *_sets(settings)]
        self._mtl(name, words, kill_at)

    def resume(self, name: str, ranks: int, kill_at: int = 0, settings: Sequence[str] = ()) -> None:
        devices = ["--set", f"train.devices={ranks}", *_sets(settings)]
        self._mtl(name, ["--resume", str(self.folder / name), *devices], kill_at)

    def _mtl(self, name: str, words: list[str], kill_at: int) -> None:
        notes = self.folder / f"{name}-notes"
        notes.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, str(self.code), "train", *words],
            env=os.environ | {"NOTES": str(notes), "KILL_AT": str(kill_at)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, error = process.communicate(timeout=HANG_S)
        finally:
            # A killed rank leaves the others behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        expected = -signal.SIGKILL if kill_at else 0
        assert process.returncode == expected, error[-2000:]

    def open(self, name: str) -> RunFolder:
        return RunFolder(self.folder / name)

    def draws(self, name: str) -> set[str]:
        """Return the seed and the images of each draw, over all processes of a run."""
        files = (self.folder / f"{name}-notes").iterdir()
        return {line for file in files for line in file.read_text().splitlines()}

    def losses(self, name: str) -> list[list[float]]:
        """Return the step and the losses of each row of the log."""
        rows = self.open(name).log.rows()
        return [[row["step"], row["loss/quarter"], row["loss/puzzling"]] for row in rows]


def _sets(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_run_is_the_same_with_0_1_and_4_steps_read_ahead_also_killed_and_resumed(tmp_path, ranks):
    """200 steps on images that are decoded on demand, bit for bit."""
    on_demand = "from mtlcore.data import cache; cache.memory_budget = lambda: 0"
    runs, long = Runs(tmp_path, on_demand), ["train.steps=200", "train.save_every=70"]
    for ahead in (0, 1, 4):
        runs.start(f"{ahead}", ranks, settings=[*long, f"input.prefetch={ahead}"])
    runs.start("killed", ranks, kill_at=70, settings=[*long, "input.prefetch=4"])
    runs.resume("killed", ranks, settings=["input.prefetch=1"])
    whole = runs.open("0")
    assert whole.require().step == 200
    for name in ("1", "4", "killed"):
        assert runs.draws(name) == runs.draws("0")
        assert runs.losses(name) == runs.losses("0")
        weights = runs.open(name).require().weights()
        for key, weight in whole.require().weights().items():
            assert torch.equal(weights[key], weight), (name, key)


@pytest.mark.slow
def test_a_run_on_2_then_1_then_4_ranks_is_the_run_of_one_process(tmp_path):
    """Killed between. The samples and draws are the same, the losses are those up to rounding."""
    runs = Runs(tmp_path)
    runs.start("one", 1)
    runs.start("moved", 2, kill_at=7)
    assert load(runs.open("moved").config).train.micro_batches == 4
    runs.resume("moved", 1, kill_at=14)
    runs.resume("moved", 4)
    assert runs.draws("moved") == runs.draws("one")
    one, moved = runs.losses("one"), runs.losses("moved")
    assert [row[0] for row in moved] == list(range(1, 21))
    torch.testing.assert_close(moved, one, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_run_on_a_pack_is_killed_twice_and_moves_from_2_ranks_to_1_and_back(tmp_path):
    """Bit for bit the run on images in memory. Both are the run of one process, up to rounding."""
    runs, pack = Runs(tmp_path), tmp_path / "pack"
    words = ["data", "pack", "dots", str(runs.config), "--out", str(pack), "--quality", "raw"]
    assert main(words) == 0
    runs.start("one", 1)
    runs.start("memory", 2, kill_at=7)
    text = runs.config.read_text()
    runs.config.write_text(
        text.replace("[data.dots]", f'[data.dots]\nname = "packed"\nroot = "{pack}"')
    )
    runs.start("pack", 2, kill_at=7)
    for name in ("memory", "pack"):
        runs.resume(name, 1, kill_at=14)
        runs.resume(name, 2)
        assert runs.draws(name) == runs.draws("one")
        torch.testing.assert_close(runs.losses(name), runs.losses("one"), atol=1e-5, rtol=0)
    assert runs.losses("pack") == runs.losses("memory")
    a, b = (runs.open(name).require().weights() for name in ("memory", "pack"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_parameters_that_no_head_reads_stay_as_they_are_on_any_number_of_ranks(tmp_path):
    """DDP waits for a gradient of each parameter; weight decay must not act on these."""
    runs = Runs(tmp_path)
    plugin = tmp_path / "plain.py"
    plugin.write_text(with_tail(PLAIN_PLUGIN))
    text = runs.config.read_text().replace('name = "sgd"', 'name = "adamw"')
    begin, end = text.index("[task.quarter]"), text.index("[pretext.puzzling]")
    text = text[:begin] + text[end:].replace("grid = 2", 'grid = 2\nhead = "spatial"')
    runs.config.write_text(text)
    for name, ranks in (("start", 1), ("one", 1), ("two", 2)):
        steps = 1 if name == "start" else 4
        runs.start(name, ranks, settings=[f"train.steps={steps}"])
    start, one, two = (runs.open(name).require().weights() for name in ("start", "one", "two"))
    for key, weight in start.items():
        assert torch.equal(two[key], weight) == (".tail." in key), key
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("weighting", ["equal", "primary_projection"])
def test_without_labels_of_a_task_what_its_loss_alone_reaches_rests(tmp_path, weighting):
    """Weight decay and momentum must not act there, whatever computes the gradients."""
    trainer = Trainer(load(rare(tmp_path), [f"weighting.name={weighting}"]), progress=False)
    tail = trainer.encoder.get_submodule("net.tail").weight
    moved = []
    for _ in range(trainer.steps):
        before = tail.detach().clone()
        losses = trainer.step()
        moved.append(("kind" in losses, not torch.equal(tail, before)))
    assert set(moved) == {(True, True), (False, False)}


@pytest.mark.slow
def test_without_labels_of_a_task_two_ranks_train_as_one(tmp_path):
    runs = Runs(tmp_path)
    runs.config = rare(tmp_path)
    for name, ranks in (("one", 1), ("two", 2)):
        runs.start(name, ranks, settings=["train.micro_batches=2"])
    one, two = (runs.open(name).require().weights() for name in ("one", "two"))
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_run_that_resumes_on_as_many_ranks_is_the_same_bit_for_bit(tmp_path):
    runs = Runs(tmp_path)
    runs.start("whole", 2)
    runs.start("stopped", 2, kill_at=7)
    runs.resume("stopped", 2)
    assert runs.losses("whole") == runs.losses("stopped")
    a, b = (runs.open(name).require().weights() for name in ("whole", "stopped"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_two_processes_of_torchrun_train_through_the_command_line(tmp_path):
    """Real processes: they evaluate on one rank, save, and equal one with two micro-batches.

    With --quiet, neither they nor Lightning print. Samples are mixed within a micro-batch, and
    kornia's operations are drawn for it.
    """
    config = tmp_path / "dots.toml"
    config.write_text(DOTS_CONFIG)
    code = tmp_path / "mtl.py"
    code.write_text("import sys\nfrom mtlcore.cli import main\nsys.exit(main())\n")
    train = [str(code), "train", str(config), "--quiet", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    two = [*torchrun, *train, str(tmp_path / "two")]
    one = [sys.executable, *train, str(tmp_path / "one"), "--set", "train.micro_batches=2"]
    for words in (two, one):
        done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == ""
        assert "distributed" not in done.stderr
    a, b = (RunFolder(tmp_path / name).require().weights() for name in ("two", "one"))
    # BatchNorm's statistics are those of rank 0 alone.
    parameters = [k for k in a if "running" not in k and "num_batches" not in k]
    torch.testing.assert_close(
        [a[k] for k in parameters], [b[k] for k in parameters], atol=1e-6, rtol=0
    )
