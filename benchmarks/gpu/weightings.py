"""(e) Every loss weighting for 20 steps: finite, and resumed bit for bit on the device.

Two tasks and puzzling, with deterministic algorithms of torch. A run takes ten steps, is saved, and
takes ten more; a second trainer resumes it and takes the same ten. `16-mixed` works with weightings
that read losses alone. Its first steps may be skipped, until the scale of the gradients fits.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mtlcore import Dataset, LossWeighting, component
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.training.trainer import Trainer
from mtlcore.weighting.torchjd_methods import METHODS

from .bench import Bench, NotHere, Row
from .made import Noise, experiment, packed, trainer

OWN = ("equal", "uncertainty", "schedule", "cosine_gate", "primary_projection", "budget")
AT_FEATURES = "cosine_gate at features"
HALF = 10  # steps before and after the checkpoint


def weightings(bench: Bench) -> None:
    size = bench.size(32, 16)
    # A pack, and not noise in memory: a run that is resumed must be able to open its data again.
    pack = packed(bench, "pack", Noise(bench.size(128, 64), size, tasks=2))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for precision in _precisions(bench):
            for name in _names(bench):
                measure = partial(_measured, bench, name, precision, pack, size)
                bench.case(f"{name} {precision}", measure)
    finally:
        torch.use_deterministic_algorithms(False)


def _precisions(bench: Bench) -> tuple[str, ...]:
    if bench.tiny:
        return ("bf16-mixed",)
    return ("bf16-mixed", "16-mixed") if bench.cuda else ("32", "bf16-mixed")


def _names(bench: Bench) -> tuple[str, ...]:
    """Return every weighting of the core, then those of TorchJD. --tiny: one of each level."""
    if bench.tiny:
        return "uncertainty", "cosine_gate"
    return *OWN, AT_FEATURES, *(f"torchjd:{method}" for method in METHODS)


def _measured(bench: Bench, name: str, precision: str, pack: Dataset, size: int) -> Row:
    if name == AT_FEATURES:
        weighting = component("weighting", "cosine_gate", at="features")
    else:
        weighting = component("weighting", name)
    if precision == "16-mixed" and weighting.at != "losses":
        raise NotHere("16-mixed works with weightings that read losses alone")
    return _Run(bench, weighting, precision, pack, size).measured()


class _Run:
    """One weighting in one precision."""

    def __init__(
        self, bench: Bench, weighting: LossWeighting, precision: str, pack: Dataset, size: int
    ) -> None:
        at_features = weighting.at == "features"
        # At the features, all heads must read the same images, which puzzling does not.
        puzzling = {} if at_features else {"puzzling": component("pretext", "puzzling", grid=2)}
        self.bench = bench
        self.half = bench.size(HALF, 1)
        self.experiment = experiment(
            bench,
            pack,
            ResnetSmall(width=8, stem_stride=2),
            size,
            bench.size(16, 8),
            tasks=2,
            pretexts=puzzling,
            weighting=weighting,
            precision=precision,
            steps=2 * self.half,
            save_every=1000,
        )

    def measured(self) -> Row:
        name = f"{len(self.bench.rows)}"
        folder = Path(self.bench.folder, name)
        first = trainer(self.experiment, folder)
        self._take(first)
        first.save()
        self._take(first)
        resumed = trainer(self.experiment, folder, resume=True)
        self._take(resumed)
        one, other = first.model.state_dict(), resumed.model.state_dict()
        finite = all(bool(x.isfinite().all()) for x in one.values())
        difference = max(_difference(one[key], other[key]) for key in one)
        return {
            "value": finite and difference == 0,
            "unit": "finite and resumed bit for bit",
            "finite": finite,
            "largest_difference": difference,
            "skipped_steps": first.skipped,
        }

    def _take(self, made: Trainer) -> None:
        for _ in range(self.half):
            made.step()


def _difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, 0 if they are the same bit for bit."""
    if torch.equal(one, other):
        return 0.0
    return float((one.double() - other.double()).abs().max())
