"""Which encoder and which task exports in which format: writes docs/export_table.md.

    python benchmarks/export_table.py [--runs RUN ...] [--again]

Each network has random weights with BatchNorm's statistics of random images, heads of shipped
tasks, and random images. --runs: trained runs, each compared on 1,000 of its own images.

Each row is written to benchmarks/results/export.json as soon as it is measured. Rows that are there
already are not measured again, unless with --again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

import torch

import mtlcore
from mtlcore import BuildContext, Encoder, MtlError, SupervisedTask, component
from mtlcore.augment.levels import Validation
from mtlcore.deployment.export import Agreement, check
from mtlcore.deployment.graph import FORMATS, ExportedGraph, load_graph, write_graph
from mtlcore.deployment.some_samples import random_images
from mtlcore.encoders import ResnetSmall, Timm
from mtlcore.encoders.vision import NETS
from mtlcore.model.inference import Inference, SharedEncoder
from mtlcore.model.preprocess import Preprocess
from mtlcore.prediction.predictor import Predictor
from mtlcore.rng import VIEW, KeyedRng

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export_table.md"
RESULTS = Path(__file__).resolve().parent / "results" / "export.json"
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


Row = dict[str, object]
"""One cell of the table: "mb", "largest", "equal" and "n"; or "error"."""

Rows = dict[str, dict[str, Row]]
"""Name of the row -> format -> cell."""


def cell(megabytes: float, one: Agreement) -> Row:
    largest = float(f"{one.largest:.2e}")
    return {"mb": round(megabytes, 1), "largest": largest, "equal": one.equal, "n": one.n}


def text(row: Row) -> str:
    if "error" in row:
        return f"no: {row['error']}"
    return f"{row['largest']:.1e}, {row['equal']} of {row['n']}"


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


def rows_of(found: Predictor, images: torch.Tensor) -> Rows:
    """Task -> format -> cell."""
    graph = ExportedGraph(found.net, found.tasks, found.preprocess)
    result: Rows = {label: {} for label in found.tasks}
    for file_format in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "graph"
            try:
                write_graph(graph, file, file_format, {})
                compute = load_graph(file, file_format, tuple(found.tasks))
                agreement = check(found, compute, images)
            except MtlError as error:
                for label in found.tasks:
                    result[label][file_format] = {"error": str(error)}
                continue
            for label, one in agreement.items():
                result[label][file_format] = cell(file.stat().st_size / 1e6, one)
    return result


def of_run(folder: Path) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for file_format in FORMATS:
        with tempfile.TemporaryDirectory() as scratch:
            done = mtlcore.load_run(folder).export(Path(scratch, "graph"), file_format)
        if "random" in done.images:
            raise MtlError(f"{folder}: {done.images}")
        one = max(done.agreement.values(), key=lambda a: a.largest)
        found[file_format] = cell(done.bytes / 1e6, one)
    return found


def of_encoder(encoder: Encoder, size: int, of: dict[str, SupervisedTask]) -> dict[str, Row]:
    """The task that agrees least, for each format."""
    found = predictor(encoder, of, size)
    rows = rows_of(found, random_images(found.preprocess.stored, IMAGES))

    def badness(row: Row) -> float:
        return float("inf") if "error" in row else float(str(row["largest"]))

    return {f: max((row[f] for row in rows.values()), key=badness) for f in FORMATS}


def table(first: str, rows: Rows) -> list[str]:
    lines = [f"| {first} | " + " | ".join(FORMATS) + " | MB (ONNX) |", "|---|" + "---|" * 3]
    for name, by_format in rows.items():
        cells = " | ".join(text(by_format[f]) for f in FORMATS)
        lines.append(f"| `{name}` | {cells} | {by_format['onnx'].get('mb', '')} |")
    return [*lines, ""]


def page(found: dict[str, Rows]) -> str:
    import onnx
    import onnxruntime

    lines = [
        "# What exports",
        "",
        "Written by `python benchmarks/export_table.py`. Do not edit. A cell is the largest",
        "difference between the file and the run, then how many answers are equal. Numbers above",
        "1, such as degrees, count relative to the largest of them. See [Export](export.md).",
        "",
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__},",
        f"onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}",
        "",
        "## Trained runs, on 1,000 of their own images",
        "",
        *table("run", found["runs"]),
        f"## Tasks, on {IMAGES} random images",
        "",
        *table("task", found["tasks"]),
        f"## Encoders, on {IMAGES} random images",
        "",
        "Random weights, with the heads of `fer` and `headpose`; the cell is the worse of both.",
        "",
        *table("encoder", found["encoders"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="RUN")
    parser.add_argument("--again", action="store_true", help="measure all rows again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Rows] = {"runs": {}, "tasks": {}, "encoders": {}}
    if RESULTS.exists() and not args.again:
        found = json.loads(RESULTS.read_text())

    def write() -> None:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(found), encoding="utf-8")

    for folder in args.runs:
        if folder.name not in found["runs"]:
            found["runs"][folder.name] = of_run(folder)
            write()
    shipped = tasks()
    if not found["tasks"]:
        one = predictor(ResnetSmall(stem_stride=2), shipped, 48)
        found["tasks"] = rows_of(one, random_images(one.preprocess.stored, IMAGES))
        write()
    two = {label: shipped[label] for label in ("fer", "headpose")}
    for name, (encoder, size) in encoders().items():
        if name not in found["encoders"]:
            found["encoders"][name] = of_encoder(encoder, size, two)
            print(name, found["encoders"][name], flush=True)
            write()
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
