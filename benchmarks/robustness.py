"""`python benchmarks/run.py robustness`: trained runs on corrupted test images; their calibration.

The runs are those of a protocol, in its --work folder. Each adds one row to the file of rows.

- Corruptions by kornia, each in three strengths: Gaussian noise, Gaussian blur, contrast, JPEG.
  Their parameters are those of CIFAR-10-C at severities 1, 3 and 5 (Hendrycks and Dietterich, ICLR
  2019, arXiv:1903.12261), for images of 32 pixels; kornia's JPEG approximates a codec.
- Calibration: the expected calibration error (ECE) on the clean images, 15 bins (Guo et al., ICML
  2017, arXiv:1706.04599).
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from hmtl.protocols import ROOT, load, workspace
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from mtlcore import Classification, MtlError, load_run
from mtlcore.data.dataset import open_data
from mtlcore.evaluation.decoded import decoded_predictions
from mtlcore.evaluation.validation import ValidationBatches
from mtlcore.study.plan import Plan
from mtlcore.study.results import Run, metric_in
from mtlcore.study.workspace import append_line, json_lines

FILE = ROOT / "benchmarks" / "results" / "robustness.jsonl"
SEVERITIES = (1, 3, 5)
BATCH = 250
Corruption = Callable[[Tensor], Tensor]
"""Images (B, 3, h, w) in [0, 1] -> corrupted ones; values may leave [0, 1]."""


# ------------------------------------------------------------------------------------ corruptions


def noise(sigma: float, images: Tensor) -> Tensor:
    """Add Gaussian noise: the same draws for each run, and for each batch of it."""
    generator = torch.Generator().manual_seed(0)
    return images + sigma * torch.randn(images.shape, generator=generator)


def blur(sigma: float, images: Tensor) -> Tensor:
    """Blur with a Gaussian of this sigma in pixels, cut off at four sigma."""
    side = 2 * round(4 * sigma) + 1
    return gaussian_blur2d(images, (side, side), (sigma, sigma), "reflect")


def contrast(factor: float, images: Tensor) -> Tensor:
    """Scale the differences from the mean of each channel."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + factor * (images - mean)


def jpeg(quality: float, images: Tensor) -> Tensor:
    """Compress as JPEG does. quality: 1 to 100."""
    return jpeg_codec_differentiable(images, torch.tensor([quality]))


CORRUPTIONS: dict[str, tuple[Corruption, ...]] = {
    "noise": tuple(partial(noise, sigma) for sigma in (0.04, 0.08, 0.10)),
    "blur": tuple(partial(blur, sigma) for sigma in (0.4, 0.7, 1.0)),
    "contrast": tuple(partial(contrast, factor) for factor in (0.75, 0.4, 0.15)),
    "jpeg": tuple(partial(jpeg, quality) for quality in (80.0, 58.0, 40.0)),
}
"""Name -> one corruption for each of `SEVERITIES`."""


def corrupted(images: Tensor, corruption: Corruption) -> Tensor:
    """Corrupt stored images (B, 3, h, w) uint8. -> the same shape, uint8."""
    found = corruption(images.float() / 255)
    return (255 * found).round().clamp(0, 255).to(torch.uint8)


# ---------------------------------------------------------------------------------------- one run


@torch.no_grad()
def measured(folder: Path) -> dict[str, Any]:
    """Return the accuracies of a run on its test split, in percent, and its ECE, in points.

    -> clean, ece, and for each corruption a list, one accuracy for each severity.
    Raises MtlError if the run has not exactly one task, or if that is not a classification.
    """
    run = load_run(folder)
    components = {label: entry.component for label, entry in run.experiment.tasks.items()}
    if [isinstance(task, Classification) for task in components.values()] != [True]:
        raise MtlError(f"{folder}: expected a run with one task, a classification")
    (label,) = components

    settings = evolve(run.experiment.input, eval_batch_size=BATCH)  # noise is drawn for a batch
    experiment, data = open_data(evolve(run.experiment, input=settings), {"test"})
    batches = ValidationBatches(experiment, data, data.split["test"], torch.device("cpu"))
    net, precision = run.model(), experiment.train.precision

    def predicted(corruption: Corruption | None = None) -> tuple[Tensor, Tensor]:
        """Return the probabilities (N, C) and classes (N,) of the labeled images."""
        probabilities, classes = [], []
        for number in range(len(batches)):
            batch = batches.batch(number)
            stored = corrupted(batch.images, corruption) if corruption else batch.images
            view = batches.view(stored)
            found = decoded_predictions(net, components, view.images, precision)
            labeled = batch.present[label]
            probabilities.append(found[label][labeled])
            classes.append(batch.targets[label][labeled])
        return torch.cat(probabilities), torch.cat(classes)

    def accuracy(probabilities: Tensor, classes: Tensor) -> float:
        number = probabilities.shape[1]
        return percent(multiclass_accuracy(probabilities, classes, number, average="micro"))

    clean, classes = predicted()
    ece = multiclass_calibration_error(clean, classes, clean.shape[1], n_bins=15)
    by_name = {
        name: [accuracy(*predicted(corruption)) for corruption in strengths]
        for name, strengths in CORRUPTIONS.items()
    }
    return {"clean": accuracy(clean, classes), "ece": percent(ece), **by_name}


def percent(share: Tensor) -> float:
    """Return a share () as a percentage, to four digits."""
    return round(100 * float(share), 4)


# ---------------------------------------------------------------------------------------- command


def rows(file: Path = FILE) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    return [row for _, row in json_lines(file)]


def main(words: list[str]) -> int:
    """Measure the runs that have no row yet, and return the exit code."""
    description = __doc__.splitlines()[0] if __doc__ else ""
    parser = argparse.ArgumentParser(
        prog="python benchmarks/run.py robustness", description=description
    )
    parser.add_argument("--protocol", required=True, help="a file of benchmarks/protocols")
    parser.add_argument("--work", type=Path, required=True, help="folder of its run folders")
    parser.add_argument("--arms", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--stage", default="main", help="main, or the name of an extra")
    parser.add_argument("--out", type=Path, default=FILE, help="the file of rows")
    args = parser.parse_args(words)
    try:
        plan = _plan(args)
        for run in _left(args, plan):
            row = _row(args, plan, run)
            append_line(args.out, row)
            print(f"{run.name}: clean {row['clean']}, ECE {row['ece']}", flush=True)
    except MtlError as error:
        print(f"robustness: {error}", file=sys.stderr)
        return 2
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """Return the plan of the protocol, with its committed rows."""
    protocol = load(args.protocol)
    committed = ROOT / "benchmarks" / "results" / f"hmtl-{protocol.name}" / "runs.jsonl"
    return workspace(protocol, Path("data"), args.work, committed).plan()


def _left(args: argparse.Namespace, plan: Plan) -> list[Run]:
    """Return the selected runs that have no row here.

    Raises MtlError on an unknown arm, or if the protocol has no such run so far.
    """
    names = [plan.arm(name).name for name in args.arms]
    runs = {
        run.key: run
        for run in plan.runs()
        if run.stage == args.stage and run.arm.name in names and run.seed in args.seeds
    }
    if not runs:
        raise MtlError(f"{plan.definition.name} has no such run so far")
    done = {(row["protocol"], row["run"]) for row in rows(args.out)}
    return [run for run in runs.values() if (plan.definition.name, run.name) not in done]


def _row(args: argparse.Namespace, plan: Plan, run: Run) -> dict[str, Any]:
    """Measure a run. Raises MtlError if its folder does not hold the run of the committed row."""
    row = plan.results.row(run)
    if row is None:
        raise MtlError(f"{run.name} has no committed row: train it first")
    begin = time.process_time()
    found = measured(args.work / run.name)
    committed = 100 * metric_in(row, "test", plan.results.metric)
    if not abs(found["clean"] - committed) < 1e-3:
        raise MtlError(
            f"{run.name}: its accuracy is {found['clean']}, that of the committed row {committed}"
        )
    return {
        "protocol": plan.definition.name,
        "stage": run.stage,
        "arm": run.arm.name,
        "seed": run.seed,
        "run": run.name,
        "severities": list(SEVERITIES),
        **found,
        "cpu_s": round(time.process_time() - begin, 1),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }
