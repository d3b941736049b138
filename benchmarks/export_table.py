"""Which encoder and which task exports in which format: writes docs/export_table.md.

    python benchmarks/export_table.py [--runs RUN ...] [--quick]

Each network has random weights with the spread of trained ones (BatchNorm's statistics are those of
the images), two heads of tasks, and random images. --runs: trained runs, each compared on 1,000 of
its own images. --quick: the tasks and one encoder alone, and nothing is written.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch
from attrs import frozen

import mtlcore
from mtlcore import BuildContext, Encoder, MtlError, SupervisedTask, component
from mtlcore.augment.levels import Validation
from mtlcore.encoders import ResnetSmall, Timm
from mtlcore.encoders.vision import NETS
from mtlcore.evaluation.export import Agreement, check
from mtlcore.evaluation.graph import FORMATS, ExportedGraph, load_graph, write_graph
from mtlcore.evaluation.predict import Predictor
from mtlcore.evaluation.some_samples import random_images
from mtlcore.model.inference import Inference, SharedEncoder
from mtlcore.model.preprocess import Preprocess
from mtlcore.rng import VIEW, KeyedRng

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export_table.md"
IMAGES = 64

TIMM = [
    ("resnet10t", 32),
    ("mobilenetv3_small_050", 32),
    ("tf_efficientnet_lite0", 32),
    ("vit_tiny_patch16_224", 48),
    ("deit_tiny_distilled_patch16_224", 32),
    ("swin_tiny_patch4_window7_224", 64),
]
"""The networks of tests/encoders, with their image sizes."""


TASKS = (
    "classification",
    "multilabel",
    "regression",
    "fer",
    "gender",
    "headpose",
    "valence_arousal",
)


@frozen
class Row:
    """One cell of the table. error: why there is no file."""

    size: float = 0.0
    agreement: Agreement | None = None
    error: str = ""

    def text(self) -> str:
        if self.agreement is None:
            return f"no: {self.error}"
        one = self.agreement
        return f"{one.largest:.1e}, {one.equal} of {one.n}"


def encoders() -> dict[str, tuple[Encoder, int]]:
    found: dict[str, tuple[Encoder, int]] = {"resnet_small": (ResnetSmall(), 48)}
    found["resnet_small, stride 2"] = (ResnetSmall(stem_stride=2), 48)
    for net in NETS:
        found[str(net.name)] = (net(), 64)
    for name, size in TIMM:
        found[f"timm:{name}"] = (Timm(name), size)
    return found


def tasks() -> dict[str, SupervisedTask]:
    """Every shipped task, fitted to example annotations as training would fit it."""
    found: dict[str, SupervisedTask] = {}
    for name in TASKS:
        task = component("task", name)
        examples = task.examples(64, KeyedRng((0, 0), torch.device("cpu"))(VIEW))
        found[name] = task.fit(examples)
    return found


def predictor(encoder: Encoder, of: dict[str, SupervisedTask], size: int) -> Predictor:
    torch.manual_seed(0)
    shared = SharedEncoder(encoder, (size, size))
    context = BuildContext(shared.info, shared, {})
    net = Inference(shared, {label: task.build(context) for label, task in of.items()})
    preprocess = Preprocess((size * 3 // 2, size * 3 // 2), (size, size), Validation(crop=0.9))
    net.train()
    with torch.no_grad():
        for _ in range(3):  # the statistics of BatchNorm
            net(preprocess.view(random_images(preprocess.stored, 16)).images)
    return Predictor(net.eval(), of, preprocess)


def rows_of(found: Predictor, images: torch.Tensor) -> dict[str, dict[str, Row]]:
    """Format -> task -> row."""
    graph = ExportedGraph(found.net, found.tasks, found.preprocess)
    result: dict[str, dict[str, Row]] = {}
    for file_format in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "graph"
            try:
                write_graph(graph, file, file_format, {})
                compute = load_graph(file, file_format, tuple(found.tasks))
                agreement = check(found, compute, images)
            except MtlError as error:
                result[file_format] = {label: Row(error=str(error)) for label in found.tasks}
                continue
            megabytes = file.stat().st_size / 1e6
            result[file_format] = {label: Row(megabytes, one) for label, one in agreement.items()}
    return result


def table(first: str, rows: dict[str, dict[str, Row]]) -> list[str]:
    lines = [f"| {first} | " + " | ".join(FORMATS) + " | MB (ONNX) |", "|---|" + "---|" * 3]
    for name, by_format in rows.items():
        cells = " | ".join(by_format[f].text() for f in FORMATS)
        lines.append(f"| `{name}` | {cells} | {by_format['onnx'].size:.1f} |")
    return lines


def worst(by_format: dict[str, dict[str, Row]]) -> dict[str, Row]:
    """The task that agrees least, for each format."""

    def badness(row: Row) -> float:
        return float("inf") if row.agreement is None else row.agreement.largest

    return {f: max(of_tasks.values(), key=badness) for f, of_tasks in by_format.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="RUN")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)

    of_runs: dict[str, dict[str, Row]] = {}
    for folder in args.runs:
        by_format: dict[str, Row] = {}
        for file_format in FORMATS:
            with tempfile.TemporaryDirectory() as scratch:
                done = mtlcore.load_run(folder).export(Path(scratch, "graph"), file_format)
                assert "random" not in done.images, done.images
                one = max(done.agreement.values(), key=lambda a: a.largest)
                by_format[file_format] = Row(done.bytes / 1e6, one)
        of_runs[folder.name] = by_format
        print(folder.name, by_format, flush=True)

    of_tasks: dict[str, dict[str, Row]] = {}
    found = predictor(ResnetSmall(width=16, stem_stride=2), tasks(), 48)
    by_task = rows_of(found, random_images(found.preprocess.stored, IMAGES))
    for label in found.tasks:
        of_tasks[label] = {f: by_task[f][label] for f in FORMATS}
        print(label, of_tasks[label], flush=True)

    of_encoders: dict[str, dict[str, Row]] = {}
    two = {label: task for label, task in tasks().items() if label in ("fer", "headpose")}
    for name, (encoder, size) in encoders().items():
        if args.quick and not isinstance(encoder, ResnetSmall):
            continue
        started = time.perf_counter()
        one = predictor(encoder, two, size)
        of_encoders[name] = worst(rows_of(one, random_images(one.preprocess.stored, IMAGES)))
        print(f"{name} {time.perf_counter() - started:.0f} s", of_encoders[name], flush=True)

    if args.quick:
        return 0
    import onnx
    import onnxruntime

    lines = [
        "# What exports",
        "",
        "Written by `python benchmarks/export_table.py`. Do not edit. A cell is the largest",
        "difference between the file and the run, then how many answers are equal. Numbers above",
        "1, such as degrees, count relative to the largest of them.",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}",
        "",
    ]
    if of_runs:
        lines += ["## Trained runs, on 1,000 of their own images", "", *table("run", of_runs), ""]
    lines += [f"## Tasks, on {IMAGES} random images", "", *table("task", of_tasks), ""]
    lines += [
        f"## Encoders, on {IMAGES} random images",
        "",
        "Random weights, with the heads of `fer` and `headpose`; the cell is the worse of both.",
        "",
        *table("encoder", of_encoders),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
