"""The suite `loader`: does a step wait for its images?

Wall time counts here, since threads and worker processes share the work. Every row has a twin
`_cpu`, which compares the CPU time of all threads and workers: a busy machine does not change it.

MTLCORE_BENCH_DATA names the folder that holds `utkface` (aligned images) and `cifar10` (folders of
classes), unpacked.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import kornia  # noqa: F401 - imported here, not within a measurement
import torch
from attrs import evolve, frozen
from mtl_faces.sources.utkface import Utkface
from PIL import Image
from timing import Row, compare
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms import v2

from mtlcore import Augmentation, Classification, Encoder, component
from mtlcore.augment.levels import Strong, Weak
from mtlcore.config.experiment import DataEntry, Experiment, Input, TaskEntry, Train
from mtlcore.data import cache
from mtlcore.data.folder import ImageFolder
from mtlcore.data.prefetch import PrefetchLoader
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.model.plan import training_plan
from mtlcore.model.views import prepare
from mtlcore.training.trainer import Trainer

DATA = "MTLCORE_BENCH_DATA"
SIZE, BATCH = 112, 64
LIMIT = 2048  # images of UTKFace
ENDLESS = 1_000_000  # steps, more than any measurement takes
WORKERS = 2


@frozen
class Spent:
    """Seconds of one round. cpu_s: of all threads, and of worker processes that ended."""

    wall_s: float
    cpu_s: float


Times = dict[str, list[Spent]]


def loader(quick: bool) -> list[Row]:
    """Compare steps and batches from files, from memory, and of torch's DataLoader."""
    torch.set_num_threads(1)
    return [*on_demand(quick), *against_dataloader(quick), *start(quick)]


def on_demand(quick: bool) -> list[Row]:
    """Steps of resnet18 on files that are decoded on demand, over steps from memory."""
    encoder = component("encoder", "resnet18")
    steps = 2 if quick else 4
    trainers = {
        "memory": faces(encoder, Strong()),
        "files": from_files(faces, encoder, Strong()),
        "files_direct": from_files(faces, encoder, Strong(), prefetch=0),
    }

    def take(trainer: Trainer) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                trainer.step()

        return run

    times = measured(
        {name: take(trainer) for name, trainer in trainers.items()},
        3 if quick else 12,
        settle=lambda: settle(trainers["files"]),
    )
    return [
        *rows("on_demand", times["files"], "from memory", times["memory"], 1 / 0.85, 1 / 0.95),
        *rows("on_demand_prefetch_0", times["files_direct"], "from memory", times["memory"]),
    ]


def against_dataloader(quick: bool) -> list[Row]:
    """Images that are ready for the encoder, over `DataLoader` with 2 workers."""
    batches = 8 if quick else 24
    levels: dict[str, tuple[Augmentation, v2.Transform]] = {
        "weak": (Weak(), torchvision_weak()),
        "strong": (Strong(), torchvision_strong()),
    }
    found: list[Row] = []
    for name, (augmentation, transform) in levels.items():
        encoder = ResnetSmall(width=8)  # it does not run
        from_memory = faces(encoder, augmentation)
        files = from_files(faces, encoder, augmentation)
        variants = {
            "memory": ready(from_memory, batches),
            "files": ready(files, batches),
            "torch": torch_batches(transform, batches),
        }
        times = measured(variants, 3 if quick else 10, settle=lambda files=files: settle(files))
        over = f"DataLoader, {WORKERS} workers"
        found += rows(name, times["memory"], over, times["torch"], 1 / 3, 1 / 6)
        found += rows(f"{name}_on_demand", times["files"], over, times["torch"])
    return found


def start(quick: bool) -> list[Row]:
    """Seconds from 60,000 image files in folders of classes to the end of the first step."""

    def begin() -> None:
        dataset = ImageFolder(data_folder("cifar10"))
        exp = experiment(dataset, "label", ResnetSmall(width=8), Strong(), 32)
        Trainer(exp, progress=False).step()

    times = measured({"start": begin}, 2 if quick else 5, warm=1)
    one_second = [Spent(1.0, 1.0)] * len(times["start"])
    return rows("start_60000_files", times["start"], "1 second", one_second, 12, 6)


# ------------------------------------------------------------------------------------ measurement


def measured(
    variants: dict[str, Callable[[], object]],
    rounds: int,
    warm: int = 1,
    settle: Callable[[], object] = lambda: None,
) -> Times:
    """Return name -> seconds of each round. Every round runs every variant; the order alternates.

    settle: called after each variant, and measured with it: what it reads ahead is work of this
    round, as what it found read ahead was work of the round before.
    """
    names = list(variants)
    times: Times = {name: [] for name in names}
    for number in range(warm + rounds):
        for name in names if number % 2 else names[::-1]:
            wall_s, cpu_s = time.perf_counter(), cpu_seconds()
            variants[name]()
            settle()
            spent = Spent(time.perf_counter() - wall_s, cpu_seconds() - cpu_s)
            if number >= warm:
                times[name].append(spent)
    return times


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its worker processes that ended."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


def settle(trainer: Trainer) -> None:
    """Wait until the background thread of a trainer has read as far ahead as it may."""
    ahead = trainer.parts.loader
    assert isinstance(ahead, PrefetchLoader)
    for future in list(ahead._waiting):
        future.result()


def rows(
    name: str,
    ours: list[Spent],
    over: str,
    rival: list[Spent],
    gate: float | None = None,
    goal: float | None = None,
) -> list[Row]:
    """Return the row of the wall time, with its gate, and that of the CPU time."""
    wall = [[spent.wall_s for spent in times] for times in (ours, rival)]
    cpu = [[spent.cpu_s for spent in times] for times in (ours, rival)]
    return [
        compare(name, wall[0], over, wall[1], gate, goal),
        compare(f"{name}_cpu", cpu[0], over, cpu[1]),
    ]


# --------------------------------------------------------------------------------------- our side


def data_folder(name: str) -> Path:
    """Return the folder of a dataset. Exit if it is missing."""
    root = os.environ.get(DATA)
    folder = Path(root or ".", name)
    if root is None or not folder.is_dir():
        sys.exit(f"set {DATA} to a folder that holds {name}/ (now: {root})")
    return folder


def experiment(
    dataset: Any, label: str, encoder: Encoder, augmentation: Augmentation, size: int, **inputs: Any
) -> Experiment:
    return Experiment(
        encoder=encoder,
        tasks={"task": TaskEntry(Classification(reads=label))},
        data={"data": DataEntry(dataset)},
        augment=augmentation,
        input=Input(size=size, batch_size=BATCH, **inputs),
        train=Train(steps=ENDLESS, eval_every=0, accelerator="cpu"),
    )


def faces(encoder: Encoder, augmentation: Augmentation, **inputs: Any) -> Trainer:
    """Return a trainer on some images of UTKFace."""
    dataset = Utkface(data_folder("utkface"))
    exp = experiment(dataset, "gender", encoder, augmentation, SIZE, **inputs)
    exp = evolve(exp, data={"data": DataEntry(dataset, limit=LIMIT)})
    return Trainer(exp, progress=False)


def from_files(build: Callable[..., Trainer], *args: Any, **inputs: Any) -> Trainer:
    """Return the trainer that `build` makes if no image may stay in memory."""
    with no_image_memory():
        return build(*args, **inputs)


@contextmanager
def no_image_memory() -> Iterator[None]:
    before = cache.memory_budget
    cache.memory_budget = lambda: 0
    try:
        yield
    finally:
        cache.memory_budget = before


def ready(trainer: Trainer, batches: int) -> Callable[[], None]:
    """Return a function that makes the views of some batches, as a step does."""
    state, steps = trainer.parts.train_state, count()
    plan = training_plan(state.experiment)

    def run() -> None:
        for _ in range(batches):
            step = next(steps)
            batch = trainer.parts.loader.batch(step, 0)
            prepared = prepare(plan, batch, state.keyed_rng(0, step), 0.0)
            assert prepared.images[0].shape == (BATCH, 3, SIZE, SIZE)

    return run


# ------------------------------------------------------------------------------------- DataLoader


class Files(TorchDataset[Tensor]):
    """UTKFace files, decoded by Pillow. n: how many."""

    def __init__(self, transform: v2.Transform, n: int) -> None:
        files = sorted(data_folder("utkface").glob("*.jpg"))[:LIMIT]
        self.files = [files[i % len(files)] for i in range(n)]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            transformed: Tensor = self.transform(image.convert("RGB"))
            return transformed


def torch_batches(transform: v2.Transform, batches: int) -> Callable[[], None]:
    """Return a function that makes as many batches with a DataLoader.

    Its workers start anew each time, so that their CPU time is known: forking two takes 0.1 s.
    """
    made = DataLoader(
        Files(transform, batches * BATCH), batch_size=BATCH, shuffle=True, num_workers=WORKERS
    )

    def run() -> None:
        for images in made:
            assert images.shape == (BATCH, 3, SIZE, SIZE)

    return run


def torchvision_weak() -> v2.Transform:
    """Return the weak augmentation of torchvision, on images of Pillow."""
    return v2.Compose([*_rotated(15.0), *_to_float()])


def torchvision_strong() -> v2.Transform:
    """Return the strong augmentation of torchvision, on images of Pillow."""
    cutout = (60 / 224) ** 2
    return v2.Compose(
        [
            *_rotated(20.0),
            v2.ColorJitter(brightness=0.05),
            v2.RandomApply([v2.GaussianBlur(3, 1.5)], p=0.5),
            *_to_float(),
            v2.GaussianNoise(sigma=0.025),
            v2.RandomErasing(1.0, scale=(cutout, cutout), ratio=(1.0, 1.0), value=0.5),
        ]
    )


def _rotated(turn_deg: float) -> list[v2.Transform]:
    bilinear = v2.InterpolationMode.BILINEAR
    return [
        v2.RandomHorizontalFlip(),
        v2.RandomRotation(turn_deg, bilinear),
        v2.RandomResizedCrop(SIZE, (0.69**2, 0.99**2), (1.0, 1.0), bilinear),
        v2.ColorJitter(contrast=0.4),
    ]


def _to_float() -> list[v2.Transform]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
