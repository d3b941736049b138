"""Everything of a run up to its first steps, without a folder: does it start, how long is it?"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from attrs import evolve, frozen

from ..callbacks.progress import ProgressReporter
from ..config.experiment import Experiment
from ..runs import RunFolder
from .needed_memory import (
    AvailableMemory,
    NeededMemory,
    memory_of_batches,
    memory_of_images,
    memory_of_network,
)
from .trainer import Trainer

WARM_UP, MOST_STEPS, MOST_S = 1, 10, 3.0  # untimed steps, timed steps at most, seconds at most


@frozen
class DryRun:
    """What a run would take on this machine.

    steps: of the whole run. seconds_per_step: wall time of a training step; evaluations and
    checkpoints come on top. samples: split -> number. encoded_per_step: images that the encoder
    processes in a step. memory: bytes that one process needs at least. peak: bytes of the GPU that
    the steps took, 0 on a CPU.
    """

    steps: int
    seconds_per_step: float
    samples: dict[str, int]
    encoded_per_step: float
    memory: NeededMemory
    peak: int

    @property
    def seconds(self) -> float:
        """Estimated wall time of all training steps."""
        return self.steps * self.seconds_per_step


def dry_run(experiment: Experiment, out: Path | None, reporter: ProgressReporter) -> DryRun:
    """Read the data, build and check everything, and take a few steps. Nothing is written.

    out: the folder that the run would have: refused if it holds a run. Raises MtlError for
    everything that `mtl train` would refuse before its first step; callbacks are not checked.
    """
    if out is not None:
        RunFolder.refuse_existing(out)
    trainer = Trainer(experiment, progress=reporter)
    timed = min(trainer.steps, MOST_STEPS + WARM_UP)
    state = trainer.parts.train_state
    device = state.fabric.device
    times: list[float] = []
    for number in range(timed):
        before = time.perf_counter()
        trainer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_UP or timed == 1:
            times.append(time.perf_counter() - before)
        if sum(times) > MOST_S:
            break
    available = AvailableMemory.of(device)
    needed = evolve(
        memory_of_batches(trainer.experiment, state.fabric.world_size, available),
        images=memory_of_images(trainer.parts.data.images),
        network=memory_of_network(trainer.model, trainer.experiment),
    )
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return DryRun(
        steps=trainer.steps,
        seconds_per_step=sum(times) / len(times),
        samples={name: len(indices) for name, indices in trainer.parts.data.split.items()},
        encoded_per_step=state.encoded * state.fabric.world_size,
        memory=needed,
        peak=peak,
    )
