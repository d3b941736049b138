"""The contract of a loader: how far it reads ahead changes no bit of a run."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_datasets
from attrs import evolve
from dots_run import tiny_toml
from PIL import Image
from toy_datasets import InMemory, cycle, numbers_of
from toys import EQUAL, PRETEXTS, Jitter, Toy, train_state

from mtlcore import Batch, MtlError
from mtlcore.config import load
from mtlcore.config.experiment import DataEntry, Experiment, PretextEntry, Views
from mtlcore.data import cache
from mtlcore.data.cache import CachedSamples, ImageCache
from mtlcore.data.dataset import RunData, open_data
from mtlcore.data.loader import DirectLoader, Loader
from mtlcore.data.prefetch import OneAhead, PrefetchLoader, loader_for
from mtlcore.data.sampler import Sampler
from mtlcore.evaluation.validation import ValidationBatches
from mtlcore.runs import RunFolder
from mtlcore.training.step import train_step
from mtlcore.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 200
MICRO_BATCHES = 2
SOON_S = 20  # only ends a test that hangs


class Counting(DirectLoader):
    """Notes what is read."""

    def __init__(self, exp: Experiment, data: RunData) -> None:
        super().__init__(data, Sampler(data, exp), CPU)
        self.reads: list[tuple[int, int]] = []

    def read(self, step: int, number: int) -> Batch:
        self.reads.append((step, number))
        return super().read(step, number)


@pytest.fixture(scope="module")
def opened() -> tuple[Experiment, RunData]:
    """A run with labeled and unlabeled samples, a pretext and dropout, decoded on demand."""
    dataset = InMemory(60, cycle("abc", 60), split=("train",) * 60, size=8)
    entries = {"a": DataEntry(dataset, labels=0.5, unlabeled="keep")}
    exp = toy_datasets.experiment(
        entries, size=8, batch_size=8, validation=0.0, micro_batches=MICRO_BATCHES
    )
    exp = evolve(
        exp,
        encoder=Toy(),
        pretexts={"rotation": PretextEntry(PRETEXTS["rotation"])},
        views=Views(supervised="pretext"),
        augment=Jitter(),
        weighting=EQUAL,
    )
    return open_data(exp, memory=0)


def ahead_of(direct: DirectLoader, ahead: int, steps: int = STEPS) -> PrefetchLoader:
    return PrefetchLoader(direct, range(MICRO_BATCHES), steps, ahead)


def wait_until_read(direct: Counting, n: int) -> None:
    """Wait until n batches are read, and a little longer: is it one too many?"""
    begin = time.monotonic()
    while len(direct.reads) < n:
        assert time.monotonic() - begin < SOON_S, f"{len(direct.reads)} of {n} batches were read"
        time.sleep(0.001)
    time.sleep(0.02)


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


def wait_until_no_reader() -> None:
    begin = time.monotonic()
    while readers():
        assert time.monotonic() - begin < SOON_S, f"{readers()} did not end"
        time.sleep(0.001)


def hash_of_run(exp: Experiment, loader: Loader, steps: int) -> str:
    """Train, and hash all batches, all losses and the trained weights."""
    state, found = train_state(exp), hashlib.sha256()
    for step in range(steps):
        batches = [loader.batch(step, number) for number in range(MICRO_BATCHES)]
        for b in batches:
            tensors = [b.images, *b.targets.values(), *b.present.values()]
            found.update(repr(b.counts).encode())
            found.update(b"".join(x.numpy().tobytes() for x in tensors))
        logged = train_step(state, batches)
        found.update(repr({name: float(value) for name, value in logged.items()}).encode())
    for weight in state.model.state_dict().values():
        found.update(weight.numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("steps", [20, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_a_run_is_the_same_with_0_1_and_4_steps_read_ahead(opened, steps):
    exp, data = opened
    _, in_memory = open_data(exp)
    hashes = {hash_of_run(exp, Counting(exp, each), steps) for each in (data, in_memory)}
    for ahead in (1, 4):
        direct = Counting(exp, data)
        hashes.add(hash_of_run(exp, ahead_of(direct, ahead, steps), steps))
        # Each batch was read once, in order, and none beyond the end of the run.
        assert direct.reads == [(s, m) for s in range(steps) for m in range(MICRO_BATCHES)]
    assert len(hashes) == 1


def test_no_more_than_the_requested_steps_wait_in_memory(opened):
    gc.collect()
    wait_until_no_reader()  # of the tests before
    direct = Counting(*opened)
    loader = ahead_of(direct, 3)
    assert not readers()  # a trainer that never steps needs no thread
    for requested in range(1, 5):
        loader.batch(*divmod(requested - 1, MICRO_BATCHES))
        wait_until_read(direct, requested + 3 * MICRO_BATCHES)
        assert len(direct.reads) == requested + 3 * MICRO_BATCHES
    loader.close()


class Noting:
    """Notes which samples are taken from an image cache."""

    def __init__(self, images: ImageCache) -> None:
        self.images = images
        self.size = images.size
        self.taken: list[list[int]] = []

    def take(self, indices: np.ndarray) -> CachedSamples:
        self.taken.append(indices.tolist())
        return self.images.take(indices)


def test_each_of_two_ranks_reads_the_samples_of_its_own_batches_alone(opened):
    exp, data = opened
    steps, taken = range(6), []
    for rank in range(2):
        images = Noting(data.images)
        direct = DirectLoader(evolve(data, images=images), Sampler(data, exp), CPU)
        loader = PrefetchLoader(direct, [rank], len(steps), 2)
        for step in steps:
            loader.batch(step, rank)
        taken.append(images.taken)
    drawn = [Sampler(data, exp).step(step) for step in steps]
    assert taken == [[step[rank][0].tolist() for step in drawn] for rank in range(2)]


def test_a_loader_begins_at_any_step(opened):
    direct, resumed = Counting(*opened), ahead_of(Counting(*opened), 4)
    for step in range(150, 160):
        for number in range(MICRO_BATCHES):
            one, other = direct.batch(step, number), resumed.batch(step, number)
            assert torch.equal(one.images, other.images)
            assert one.counts == other.counts
    resumed.close()


def test_a_request_of_another_step_is_right_and_disturbs_no_reading(opened):
    expected, direct = Counting(*opened), Counting(*opened)
    loader = ahead_of(direct, 1)
    for step in range(1, 6):
        for asked in (0, step, step):  # a look at a fixed step, and each step twice
            for number in range(MICRO_BATCHES):
                images = loader.batch(asked, number).images
                assert torch.equal(images, expected.batch(asked, number).images)
    loader.close()
    assert direct.reads.count((3, 0)) == 2  # read ahead once, and once for its second request


def test_reading_follows_a_loop_that_goes_on_elsewhere(opened):
    direct = Counting(*opened)
    loader = ahead_of(direct, 1)
    for step in (0, 50, 51, 52):
        for number in range(MICRO_BATCHES):
            loader.batch(step, number)
    wait_until_read(direct, 5 * MICRO_BATCHES)
    assert direct.reads[-1] == (53, MICRO_BATCHES - 1)
    loader.close()


def test_the_thread_ends_with_the_loader_and_batches_can_still_be_read(opened):
    loader = ahead_of(Counting(*opened), 2)
    loader.batch(0, 0)
    assert readers()
    loader.close()
    wait_until_no_reader()
    assert torch.equal(loader.batch(0, 1).images, Counting(*opened).batch(0, 1).images)
    assert not readers()

    dropped = ahead_of(Counting(*opened), 2)
    dropped.batch(0, 0)
    del dropped
    gc.collect()
    wait_until_no_reader()


def test_images_in_memory_are_not_read_ahead_on_the_cpu(opened):
    exp, on_demand = opened
    _, in_memory = open_data(exp)
    for data, ahead, kind in (
        (in_memory, 2, DirectLoader),
        (on_demand, 2, PrefetchLoader),
        (on_demand, 0, DirectLoader),
    ):
        loader = loader_for(data, Sampler(data, exp), CPU, range(MICRO_BATCHES), STEPS, ahead)
        assert type(loader) is kind


def test_an_evaluation_reads_the_next_batch_of_its_rank_ahead():
    reads: list[int] = []

    def read(number: int) -> int:
        reads.append(number)
        if number == 5:
            raise MtlError("5.png can't be read")
        return number

    ahead = OneAhead(read, batches=7, stride=2)
    assert ahead.get(1) == 1
    ahead._waiting[3].exception(SOON_S)
    assert reads == [1, 3]
    assert ahead.get(3) == 3
    with pytest.raises(MtlError, match=r"5\.png"):
        ahead.get(5)
    assert reads == [1, 3, 5]  # batch 7 is beyond the end
    assert ahead.get(0) == 0  # out of order


def test_an_evaluation_on_files_sees_the_images_of_one_in_memory(opened):
    exp, data = opened
    exp = evolve(exp, input=evolve(exp.input, eval_batch_size=16))
    indices = data.split["train"]
    of_memory = ValidationBatches(exp, open_data(exp).data, indices, CPU)
    of_files = ValidationBatches(exp, data, indices, CPU)
    assert len(of_files) > 1
    for number in range(len(of_files)):
        one, other = of_memory.batch(number), of_files.batch(number)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.present["kind"], other.present["kind"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_batches_on_cuda_are_those_of_the_cpu(opened):
    exp, data = opened
    direct, cuda = Counting(exp, data), torch.device("cuda", 0)
    loader = loader_for(data, Sampler(data, exp), cuda, range(MICRO_BATCHES), STEPS, 4)
    for step in range(STEPS):
        batch = loader.batch(step, 0)
        assert batch.images.device == cuda
        assert numbers_of((batch.images + 0).cpu()) == numbers_of(direct.batch(step, 0).images)
    loader.close()


# ------------------------------------------------------------------------------ whole runs


@pytest.fixture
def on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image may stay in memory."""
    monkeypatch.setattr(cache, "memory_budget", lambda: 0)


@pytest.fixture
def folder_run(tmp_path: Path, on_demand: None) -> Iterator[Trainer]:
    """A run on 40 image files."""
    files = tmp_path / "images"
    for number in range(40):
        file = files / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    text = tiny_toml('steps = 9\neval_every = 0\naccelerator = "cpu"', plugins=())
    text = text.replace("[task.quarter]", '[task.quarter]\nreads = "label"')
    text = text.replace(
        "[data.dots]\nn = 40", f'[data.own]\nname = "image_folder"\nroot = "{files}"'
    )
    (tmp_path / "own.toml").write_text(text)
    yield Trainer(load(tmp_path / "own.toml"), tmp_path / "run", progress=False)
    wait_until_no_reader()  # also after an error


def test_an_image_that_vanishes_ends_the_run_with_its_name_in_its_own_step(folder_run, tmp_path):
    folder_run.step()
    wait_until_two_steps_wait(folder_run)
    for file in (tmp_path / "images").rglob("*.png"):
        file.unlink()
    with pytest.raises(MtlError, match=r"images/[ab]/\d+\.png can't be read: No such file"):
        folder_run.run()
    assert folder_run.parts.train_state.step == 3  # two steps were read ahead


def wait_until_two_steps_wait(trainer: Trainer) -> None:
    loader = trainer.parts.loader
    assert isinstance(loader, PrefetchLoader)
    begin = time.monotonic()
    while not (len(loader._waiting) == 2 and all(read.done() for read in loader._waiting)):
        assert time.monotonic() - begin < SOON_S
        time.sleep(0.001)


def test_a_finished_run_leaves_no_thread_and_its_trainer_still_reads_batches(folder_run):
    folder_run.run()
    wait_until_no_reader()
    assert len(folder_run.batch(3).micro_batches[0].images) == 8


SLOW_FILES = """
import sys, time
from mtlcore.cli import main
from mtlcore.data import cache, folder
cache.memory_budget = lambda: 0
read = folder.read_image

def slow(key, root):
    time.sleep(WAIT_S)
    return read(key, root)

folder.read_image = slow
sys.exit(main())
"""


@pytest.mark.slow
def test_a_signal_while_images_are_read_saves_the_run_and_ends_it(folder_run, tmp_path, subtests):
    """Most of a step is a wait for files, so the signal comes while the thread reads."""
    del folder_run  # its files and its configuration
    code = SLOW_FILES.replace("WAIT_S", "0.03")
    settings = ["--set", "train.steps=100000", "--set", "train.log_every=1"]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subtests.test(number.name):
            run = RunFolder(tmp_path / number.name)
            words = ["train", str(tmp_path / "own.toml"), "--out", str(run.path), *settings]
            process = subprocess.Popen(
                [sys.executable, "-c", code, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            while not run.metrics.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(number)
            out, error = process.communicate(timeout=120)
            assert process.returncode == 128 + number, error
            assert "--resume" in out
            assert "Traceback" not in error
            assert run.require().step >= run.log.rows()[-1]["step"]


BY_HAND = """
import sys
from mtlcore import Trainer, load_experiment
from mtlcore.data import cache
from mtlcore.data.cache import CachedSamples, ImageCache
cache.memory_budget = lambda: 0
trainer = Trainer(load_experiment(sys.argv[1]), progress=False)
trainer.step()
if sys.argv[2] == "raises":
    raise RuntimeError("a bug of a training loop")
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["returns", "raises"])
def test_a_training_loop_of_your_own_that_ends_early_ends_the_process(folder_run, tmp_path, end):
    done = subprocess.run(
        [sys.executable, "-c", BY_HAND, str(tmp_path / "own.toml"), end],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == (end == "raises"), done.stderr
    assert ("a bug of a training loop" in done.stderr) == (end == "raises")
