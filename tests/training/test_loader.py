"""The contract of a loader: how far it reads ahead changes no bit of a run."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from queue import SimpleQueue

import pytest
import torch
import toy_datasets
from attrs import evolve
from toy_datasets import InMemory, cycle
from toys import EQUAL, PRETEXTS, Jitter, Toy, train_state

from mtlcore import Batch, MtlError
from mtlcore.config.experiment import DataEntry, Experiment, PretextEntry, Views
from mtlcore.data.dataset import RunData, open_data
from mtlcore.data.loader import DirectLoader, Loader
from mtlcore.data.sampler import Sampler
from mtlcore.training.step import train_step

CPU = torch.device("cpu")
STEPS = 200
MICRO_BATCHES = 2


class ReadsAhead:
    """Reads batches in a thread, up to `ahead` of them before they are asked for.

    first: the step with which the run begins or resumes. numbers: the micro-batches of the rank.
    """

    def __init__(self, inner: Loader, first: int, numbers: Sequence[int], ahead: int) -> None:
        self.inner = inner
        self.room = threading.Semaphore(ahead)
        self.read: SimpleQueue[tuple[int, int, Batch | MtlError]] = SimpleQueue()
        self.most = 0  # batches that waited at once
        positions = ((step, number) for step in range(first, STEPS) for number in numbers)
        self.thread = threading.Thread(target=self._read, args=(positions,), daemon=True)
        self.thread.start()

    def _read(self, positions: Iterable[tuple[int, int]]) -> None:
        for step, number in positions:
            self.room.acquire()
            found: Batch | MtlError
            try:
                found = self.inner.batch(step, number)
            except MtlError as error:
                found = error
            self.read.put((step, number, found))
            self.most = max(self.most, self.read.qsize())

    def batch(self, step: int, number: int) -> Batch:
        *position, found = self.read.get()
        self.room.release()
        assert position == [step, number]
        if isinstance(found, MtlError):
            raise found
        return found


def opened() -> tuple[Experiment, RunData]:
    """Return a run with labeled and unlabeled samples, a pretext, and dropout."""
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
    return open_data(exp)


def loader_of(exp: Experiment, data: RunData, ahead: int, first: int = 0) -> Loader:
    direct = DirectLoader(data, Sampler(data, exp), CPU)
    return ReadsAhead(direct, first, range(MICRO_BATCHES), ahead) if ahead else direct


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
def test_a_run_is_the_same_with_0_1_and_4_batches_read_ahead(steps):
    exp, data = opened()
    loaders = {ahead: loader_of(exp, data, ahead) for ahead in (0, 1, 4)}
    hashes = {ahead: hash_of_run(exp, loader, steps) for ahead, loader in loaders.items()}
    assert len(set(hashes.values())) == 1
    far = loaders[4]
    assert isinstance(far, ReadsAhead)
    assert far.most > 1  # it did read ahead


def test_a_loader_begins_at_any_step():
    exp, data = opened()
    direct, resumed = loader_of(exp, data, 0), loader_of(exp, data, 4, first=150)
    for step in range(150, 160):
        for number in range(MICRO_BATCHES):
            one, other = direct.batch(step, number), resumed.batch(step, number)
            assert torch.equal(one.images, other.images)
            assert one.counts == other.counts


class Unreadable:
    """A loader whose third step can't be read."""

    def __init__(self, inner: Loader) -> None:
        self.inner = inner

    def batch(self, step: int, number: int) -> Batch:
        if step == 2:
            raise MtlError("a sample can't be read")
        return self.inner.batch(step, number)


def test_an_image_that_fails_ahead_fails_in_its_own_step():
    exp, data = opened()
    loader = ReadsAhead(Unreadable(loader_of(exp, data, 0)), 0, range(MICRO_BATCHES), 4)
    for step in range(2):
        for number in range(MICRO_BATCHES):
            assert len(loader.batch(step, number).images)
    with pytest.raises(MtlError, match="can't be read"):
        loader.batch(2, 0)
