"""Rows of the suite `loader` about packs: steps, raw batches, the start, and memory.

The start and the memory are measured in processes of their own, after all imports:

    python benchmarks/packs.py PACK STEPS    prints {"start_s": ..., "peak_mb": ...}
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401 - imported here, not within a measurement
import torch
from attrs import evolve, frozen
from loader import BATCH, LIMIT, SIZE, Spent, data_folder, experiment, faces, measured, rows
from mtl_faces.sources.utkface import Utkface
from timing import Row

from mtlcore import Augmentation, Categories, Dataset, Encoder, Index, Sample, component
from mtlcore.augment.levels import Strong
from mtlcore.config.experiment import DataEntry, Experiment
from mtlcore.contracts.texts import Texts
from mtlcore.data.dataset import open_data
from mtlcore.data.packed import Packed
from mtlcore.data.packs.plan import PackOptions
from mtlcore.data.packs.writer import pack
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.training.trainer import Trainer

SMALL = 16  # pixels of the images of large packs
DIFFERENT = 100  # images that large packs repeat
MB = 1e6


def packs(quick: bool) -> list[Row]:
    """Compare packs with memory, and measure the start on large ones."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return [
            *packed_steps(Path(folder), quick),
            *raw_batches(Path(folder), quick),
            *large(Path(folder), quick),
        ]


def packed_steps(folder: Path, quick: bool) -> list[Row]:
    """Steps of resnet18 on a pack of UTKFace, over steps from memory."""
    encoder, steps = component("encoder", "resnet18"), 2 if quick else 4
    trainers = {"memory": faces(encoder, Strong())}
    for name, quality in (("jpeg", 95), ("raw", None)):
        trainers[name] = from_pack(folder / name, encoder, Strong(), quality)

    def take(trainer: Trainer) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                trainer.step()

        return run

    times = measured({name: take(t) for name, t in trainers.items()}, 3 if quick else 12)
    found: list[Row] = []
    for name in ("jpeg", "raw"):
        gates = 1 / 0.95, 1 / 0.98
        found += rows(f"packed_{name}", times[name], "from memory", times["memory"], *gates)
    return found


def from_pack(
    folder: Path, encoder: Encoder, augmentation: Augmentation, quality: int | None
) -> Trainer:
    """Pack some images of UTKFace, and return a trainer on the pack."""
    source = experiment(Utkface(data_folder("utkface")), "gender", encoder, augmentation, SIZE)
    pack(source, "data", folder, PackOptions(quality=quality))
    exp = experiment(Packed(folder), "gender", encoder, augmentation, SIZE)
    limited = {"data": DataEntry(Packed(folder), limit=LIMIT)}
    return Trainer(evolve(exp, data=limited), progress=False)


def raw_batches(folder: Path, quick: bool) -> list[Row]:
    """Shuffled batches of a raw pack, over a copy of as many bytes in memory."""
    n = 4000 if quick else 20_000
    exp = on(Repeated(n, SIZE), SIZE)
    pack(exp, "data", folder / "shuffled", PackOptions(quality=None))
    images = open_data(on(Packed(folder / "shuffled"), SIZE)).data.images
    memory = torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8)
    images.take(np.arange(n))  # every record is compared with its checksum once
    rng, starts, batches = np.random.default_rng(0), count(), 50

    def shuffled() -> None:
        for _ in range(batches):
            images.take(rng.integers(0, n, BATCH))

    def memcpy() -> None:
        for _ in range(batches):
            start = next(starts) * BATCH % (n - BATCH)
            torch.empty(BATCH, 3, SIZE, SIZE, dtype=torch.uint8).copy_(memory[start:][:BATCH])

    times = measured({"ours": shuffled, "memcpy": memcpy}, 10 if quick else 60)
    return rows("raw_batches", times["ours"], "memcpy", times["memcpy"], 1 / 0.7, 1 / 0.9)


def large(folder: Path, quick: bool) -> list[Row]:
    """Seconds to the first step, and how peak memory grows with the number of samples."""
    gates = {10_000: (None, None), 50_000: (3.0, 1.0), 1_000_000: (20.0, 8.0)}
    found: list[Row] = []
    peaks_mb: dict[int, float] = {}
    for n, (gate, goal) in gates.items():
        begin_s = time.perf_counter()
        pack(on(Repeated(n, SMALL), SMALL), "data", folder / str(n), PackOptions(quality=None))
        print(f"packed {n} samples in {time.perf_counter() - begin_s:.1f} s")
        measures = [_in_a_process(folder / str(n), 20) for _ in range(2 if quick else 4)]
        starts = [Spent(x["start_s"], x["start_cpu_s"]) for x in measures]
        peaks_mb[n] = max(x["peak_mb"] for x in measures)
        one_second = [Spent(1.0, 1.0)] * len(starts)
        found += rows(f"start_pack_{n}", starts, "1 second", one_second, gate, goal)
    n = max(peaks_mb)
    grown_mb = peaks_mb[n] - peaks_mb[10_000]
    found.append(
        Row(f"memory_pack_{n}", "1 MB more than at 10000", grown_mb, grown_mb, grown_mb, 300, 100)
    )
    return found


def _in_a_process(folder: Path, steps: int) -> dict[str, float]:
    words = [sys.executable, __file__, str(folder), str(steps)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    measured_in_it: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured_in_it


@frozen(eq=False)
class Repeated(Dataset):
    """n images of noise, `DIFFERENT` of them different, with long keys and three labels."""

    n: int
    size: int

    def index(self) -> Index:
        samples = np.arange(self.n)
        labels = {
            name: Categories((samples // period % 10).astype(np.int32), list("abcdefghij"))
            for name, period in (("task", 1), ("shape", 10), ("material", 100))
        }
        return Index(Texts.of(self._keys()), labels)

    def decode(self, index: Index, i: int) -> Sample:
        return Sample(_noise(i % DIFFERENT, self.size))

    def _keys(self) -> Iterator[str]:
        for i in range(self.n):
            yield f"a folder/another/{i % 1000:06d}/{i:012d}.jpg"


@functools.cache
def _noise(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def on(dataset: Any, size: int) -> Experiment:
    return experiment(
        dataset, "task", ResnetSmall(width=8), Strong(), size, cache_size=(size, size)
    )


def main() -> None:
    """Measure one start in this process."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    exp = on(Packed(folder), SMALL)
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    trainer = Trainer(exp, progress=False)
    trainer.step()
    start_s, start_cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    for _ in range(steps):
        trainer.step()
    print(json.dumps({"start_s": start_s, "start_cpu_s": start_cpu_s, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MB
    raise LookupError("VmHWM")


if __name__ == "__main__":
    main()
