"""Export a run to one file that needs no mtlcore, and check the file against the run."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from .. import __version__
from ..checkpoints import Which
from ..config.experiment import Experiment
from ..config.overrides import Overrides
from ..contracts import AnswerFormat
from ..contracts.answers import PRESENT
from ..errors import MtlError
from ..evaluation.decoded import decoded_predictions
from ..files import refuse_existing
from ..prediction.described import described_answers
from ..prediction.predictor import Predictor, predictor_of
from ..runs import RunFolder
from .graph import (
    ENDINGS,
    Compute,
    ExportedGraph,
    Format,
    format_of,
    input_name,
    load_graph,
    numbers_of,
    require_format,
    write_graph,
)
from .some_samples import BATCH, random_images, some_samples

METADATA_FORMAT = 1
TOLERANCE = 1e-4
"""The largest difference between a file and its run that an export accepts."""


@frozen
class Agreement:
    """How well the numbers of a file agree with those of its run, for one task.

    largest: the largest absolute difference. If values exceed 1, as degrees and years do, it is
    divided by the largest of them; of maps, by the largest of their batch.
    equal: the number of samples with the same answer: label, labels, or values within `TOLERANCE`.
    n: the number of all samples.
    """

    largest: float
    equal: int
    n: int

    @property
    def holds(self) -> bool:
        """Whether all answers are equal, and no number differs by more than `TOLERANCE`."""
        return self.largest <= TOLERANCE and self.equal == self.n


@frozen
class Exported:
    """A file that `Run.export` wrote.

    path: the file. format: "onnx" or "torch-export". bytes: its size.
    agreement: task label -> how well it agrees with the run.
    n: the number of images in the check. images: which images, in words.
    report: notes, such as a changed precision.
    """

    path: Path
    format: Format
    bytes: int
    agreement: Mapping[str, Agreement]
    n: int
    images: str
    report: tuple[str, ...] = ()


def export_run(
    folder: RunFolder,
    path: Path,
    file_format: Format | None = None,
    *,
    which: Which = "last",
    data_samples: int = 1000,
    overrides: Overrides = (),
) -> Exported:
    """Export a run. The arguments and errors are those of `Run.export`."""
    file_format = file_format or format_of(path)
    require_format(file_format)
    if path.suffix in ENDINGS and file_format != format_of(path):
        raise MtlError(
            f"{path.name} names the format {format_of(path)}, but the format is {file_format}: "
            "choose another ending, or leave out the format"
        )
    if data_samples < 1:
        raise MtlError(f"data_samples = {data_samples}: expected at least 1")
    refuse_existing(path)
    experiment = folder.experiment(overrides)
    predictor = evolve(predictor_of(folder, which=which, device="cpu"), precision="32")
    metadata = metadata_of(folder, experiment, predictor, which)
    graph = ExportedGraph(predictor.net, predictor.tasks, predictor.preprocess)
    images, what = _images_to_check(experiment, predictor, data_samples)

    # The file appears under its own name only after the check.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write_graph(graph, temporary, file_format, metadata)
        compute = load_graph(temporary, file_format, tuple(predictor.tasks))
        agreement = check(predictor, compute, images)
        _refuse_difference(path, file_format, agreement, what)
        del compute
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    report = _precision_report(experiment)
    size = path.stat().st_size
    return Exported(path, file_format, size, agreement, len(images), what, report)


def metadata_of(
    folder: RunFolder, experiment: Experiment, predictor: Predictor, which: Which
) -> dict[str, Any]:
    """Return what a user of the file needs to know, as JSON-compatible data.

    Raises MtlError if the preprocessing can't be written as data.
    """
    preprocess = predictor.preprocess
    provenance = folder.provenance()
    tasks: dict[str, dict[str, Any]] = {}
    for label, described in described_answers(predictor, exported=True).items():
        tasks[label] = {"component": _component_name(provenance, f"task.{label}"), **described}
    data: dict[str, dict[str, str]] = {}
    for label, entry in experiment.data.items():
        data[label] = {
            "component": _component_name(provenance, f"data.{label}"),
            "license": entry.license or "not stated",
        }
    return {
        "format": METADATA_FORMAT,
        "run": folder.path.resolve().name,
        "checkpoint": folder.require(which).path.name,
        "input": {
            "name": input_name(predictor.tasks),
            "shape": ["batch", 3, *preprocess.stored],
            "dtype": "uint8",
        },
        "preprocess": preprocess.as_data(),
        "tasks": tasks,
        "data": data,
        "data_fingerprint": provenance.get("data_fingerprint", ""),
        "encoder": _component_name(provenance, "encoder"),
        "trained_with": provenance.get("versions", {}),
        "exported_with": {"mtlcore": __version__, "torch": version("torch")},
    }


def _component_name(provenance: Mapping[str, Any], path: str) -> str:
    return str(provenance.get("components", {}).get(path, {}).get("name", ""))


# ---------------------------------------------------------------------------------------- check


def check(predictor: Predictor, compute: Compute, images: Tensor) -> dict[str, Agreement]:
    """Compare the numbers of a file with those of its run. images: (N, 3, h, w) uint8."""
    expected: dict[str, list[Tensor]] = {label: [] for label in predictor.tasks}
    found: dict[str, list[Tensor]] = {label: [] for label in predictor.tasks}
    of_maps: dict[str, Agreement] = {}
    # The first image alone, because a graph must also accept a batch of one.
    for batch in (images[:1], *images[1:].split(BATCH)):
        if not batch.shape[0]:
            continue
        of_run, of_file = numbers(predictor, batch), compute(batch)
        for label, task in predictor.tasks.items():
            if of_run[label].ndim > 2:  # the maps of all images may not fit into memory
                one = agreement_of(task.answer_format(), of_run[label], of_file[label])
                of_maps[label] = _joined(of_maps[label], one) if label in of_maps else one
            else:
                expected[label].append(of_run[label])
                found[label].append(of_file[label])
    agreement: dict[str, Agreement] = {}
    for label, task in predictor.tasks.items():
        if label in of_maps:
            agreement[label] = of_maps[label]
        else:
            a, b = torch.cat(expected[label]), torch.cat(found[label])
            agreement[label] = agreement_of(task.answer_format(), a, b)
    return agreement


def _joined(a: Agreement, b: Agreement) -> Agreement:
    return Agreement(max(a.largest, b.largest), a.equal + b.equal, a.n + b.n)


def numbers(predictor: Predictor, images: Tensor) -> dict[str, Tensor]:
    """Return the numbers of the run itself, task label -> (B, n). images: (B, 3, h, w) uint8."""
    view = predictor.preprocess.view(images)
    decoded = decoded_predictions(predictor.net, predictor.tasks, view.images, predictor.precision)
    return {label: numbers_of(task, decoded[label]) for label, task in predictor.tasks.items()}


def agreement_of(answer_format: AnswerFormat, expected: Tensor, found: Tensor) -> Agreement:
    """Compare the numbers of one task, both (N, ...)."""
    n = expected.shape[0]
    if expected.shape != found.shape:
        return Agreement(float("inf"), 0, n)
    a, b = expected.reshape(n, -1), found.reshape(n, -1)
    scale = max(1.0, float(a.abs().max())) if answer_format.form == "values" else 1.0
    difference = (a - b).abs() / scale
    if answer_format.form == "label":
        equal = a.argmax(1) == b.argmax(1)
    elif answer_format.form == "labels":
        equal = ((a >= PRESENT) == (b >= PRESENT)).all(1)
    else:
        equal = (difference <= TOLERANCE).all(1)
    return Agreement(float(difference.max()), int(equal.sum()), n)


def _refuse_difference(
    path: Path, file_format: Format, agreement: Mapping[str, Agreement], what: str
) -> None:
    lines = [
        f"task {label}: largest difference {one.largest:.2g}, {one.n - one.equal} of {one.n} "
        "answers differ"
        for label, one in agreement.items()
        if not one.holds
    ]
    if lines:
        raise MtlError(
            f"{path} is not written: the {file_format} graph does not compute what the run does "
            f"(on {what}; allowed: a difference of {TOLERANCE:g}, and the same answers):\n  "
            + "\n  ".join(lines)
            + "\n  Check `decode` and `answer_numbers` of the task: use only torch operations, and "
            "only their input. If they are right, try the other format"
        )


def _images_to_check(experiment: Experiment, predictor: Predictor, n: int) -> tuple[Tensor, str]:
    """Return up to n images of the run's data, (n, 3, h, w) uint8, and what they are."""
    stored = predictor.preprocess.stored
    found = [torch.empty(0, 3, *stored, dtype=torch.uint8)]
    used: list[str] = []
    reasons: list[str] = []
    for split in ("validation", "test", "train"):
        missing = n - sum(len(images) for images in found)
        if not missing:
            break
        try:
            images = some_samples(experiment, split, missing).images()
        except MtlError as error:
            reasons.append(str(error).splitlines()[0])
            continue
        if len(images):
            found.append(images)
            used.append(split)
    if used:
        images = torch.cat(found)
        return images, f"{len(images)} images of the run's data ({', '.join(used)})"
    reason = reasons[0] if reasons else "no image can be read"
    what = f"{n} random images, since the run's data can't be opened: {reason}"
    return random_images(stored, n), what


def _precision_report(experiment: Experiment) -> tuple[str, ...]:
    precision = experiment.train.precision
    if precision == "32":
        return ()
    line = f'train.precision = "{precision}": the file computes in fp32, and was checked in fp32'
    return (line,)
