"""Compare the formats of a run: the main metric of each task, forward time, size on disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from ..checkpoints import Which
from ..config.overrides import Overrides
from ..contracts import SupervisedTask
from ..errors import MtlError, nearest
from ..evaluation.measure import moved_target
from ..model.preprocess import Preprocess
from ..prediction.predictor import predictor_of
from ..runs import RunFolder
from .graph import Compute, ExportedGraph, Format, load_graph, traced, without_gradient, write_graph
from .some_samples import SomeSamples, random_images, some_samples

BenchmarkFormat = Literal["torch", "torch-compile", "torch-export", "onnx"]
BENCHMARK_FORMATS: tuple[BenchmarkFormat, ...] = get_args(BenchmarkFormat)

BATCH_SIZES = (1, 32)
ROUNDS = 20  # measurements of each format at each batch size
WARM_UP = 2
LARGEST_S = 30.0  # of all rounds together: a slow network gets fewer


@frozen
class FormatResult:
    """One format of a run.

    format: "torch" (the network as it is), "torch-compile", "torch-export" or "onnx".
    metrics: "<task>/<metric>" -> value, the main metric of each task.
    ms: batch size -> milliseconds of one forward of that many images, the median.
    bytes: size on disk; of the checkpoint's weights for formats without a file of their own.
    error: why there is no result; "" if there is one.
    """

    format: BenchmarkFormat
    metrics: Mapping[str, float] = field(factory=dict)
    ms: Mapping[int, float] = field(factory=dict)
    bytes: int = 0
    error: str = ""


@frozen
class Benchmark:
    """The formats of a run, compared.

    n: the number of samples for the metrics. samples: which samples, in words.
    threads: CPU threads of each format.
    """

    results: tuple[FormatResult, ...]
    n: int
    samples: str
    threads: int

    def as_json(self) -> dict[str, object]:
        """Return what `mtl benchmark --json` prints."""
        rows: list[dict[str, object]] = []
        for one in self.results:
            rows.append(
                {
                    "format": one.format,
                    "metrics": dict(one.metrics),
                    "ms": {str(size): ms for size, ms in one.ms.items()},
                    "bytes": one.bytes,
                    "error": one.error,
                }
            )
        return {
            "n": self.n,
            "samples": self.samples,
            "threads": self.threads,
            "results": rows,
        }


def benchmark_run(
    folder: RunFolder,
    formats: Sequence[BenchmarkFormat] = BENCHMARK_FORMATS,
    *,
    split: str | None = None,
    n: int = 1000,
    which: Which = "last",
    overrides: Overrides = (),
) -> Benchmark:
    """Compare formats of a run. The arguments and errors are those of `Run.benchmark`."""
    for name in formats:
        if name not in BENCHMARK_FORMATS:
            raise MtlError(f"format = {name!r}: unknown; {nearest(name, BENCHMARK_FORMATS)}")
    if n < 1:
        raise MtlError(f"n = {n}: expected at least 1")
    experiment = folder.experiment(overrides)
    predictor = predictor_of(folder, which=which, device="cpu")
    # Metrics read the predictions as `decode` returns them, before `answer_numbers`.
    graph = ExportedGraph(predictor.net, predictor.tasks, predictor.preprocess, numbers=False)
    graph = graph.eval()
    opened = split or "test"
    try:
        samples = some_samples(experiment, opened, n)
        images, what = samples.images()[: max(BATCH_SIZES)], f"split {opened}, n = {samples.n}"
    except MtlError as error:
        if split is not None:
            raise
        samples, images = None, torch.empty(0)
        what = f"no metrics, since the split {opened} can't be opened: {str(error).splitlines()[0]}"
    if len(images) < max(BATCH_SIZES):
        images = random_images(predictor.preprocess.stored, max(BATCH_SIZES))

    weights = _weights_bytes(folder, which)
    computes: dict[BenchmarkFormat, Compute] = {}
    results: dict[BenchmarkFormat, FormatResult] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in formats:
            results[name] = FormatResult(name, bytes=weights)
            try:
                file = Path(scratch, name.replace("-", "_"))
                computes[name] = _built(name, graph, file)
                for size in BATCH_SIZES:
                    computes[name](images[:size])
                if file.exists():
                    results[name] = evolve(results[name], bytes=file.stat().st_size)
                if samples is not None:
                    metrics = _metrics(computes[name], predictor.preprocess, samples)
                    results[name] = evolve(results[name], metrics=metrics)
            # A missing compiler or runtime must not hide the results of the other formats.
            except Exception as error:  # noqa: BLE001
                computes.pop(name, None)
                reason = str(error).strip().splitlines() or [type(error).__name__]
                results[name] = FormatResult(name, error=reason[0])
        times = _times(computes, images)
    for name, ms in times.items():
        results[name] = evolve(results[name], ms=ms)
    count = 0 if samples is None else samples.n
    return Benchmark(tuple(results.values()), count, what, torch.get_num_threads())


def _built(name: BenchmarkFormat, graph: ExportedGraph, file: Path) -> Compute:
    """Return a format as a function. If it has a file, write the file and load it again."""
    if name == "torch":
        return without_gradient(graph)
    if name == "torch-compile":
        # The traced graph, because dynamo can't trace the objects around the network.
        return without_gradient(torch.compile(traced(graph).module(), dynamic=True))
    file_format: Format = name
    write_graph(graph, file, file_format, {})
    return load_graph(file, file_format, tuple(graph.tasks))


def _weights_bytes(folder: RunFolder, which: Which) -> int:
    path = folder.require(which).path
    ema = path / "ema.safetensors"
    file = ema if ema.exists() else path / "model.safetensors"
    return file.stat().st_size


# ------------------------------------------------------------------------------------- metrics


def _metrics(compute: Compute, preprocess: Preprocess, samples: SomeSamples) -> dict[str, float]:
    """Return the main metric of each task that has labels in this data."""
    tasks: dict[str, SupervisedTask] = {}
    for label, entry in samples.experiment.tasks.items():
        tasks[label] = entry.component
    metrics = {label: dict(list(task.metrics().items())[:1]) for label, task in tasks.items()}
    for indices, cached in samples:
        targets = samples.data.targets_of(indices, cached)
        predictions = compute(cached.images)
        geometry = preprocess.view(cached.images).geometry
        assert geometry is not None
        for label, task in tasks.items():
            target, followed = moved_target(label, task, targets[label], geometry)
            here = samples.data.present[label][torch.from_numpy(indices)] & followed
            if not here.any():
                continue
            for metric in metrics[label].values():
                metric.update(predictions[label][here], target[here])
    found: dict[str, float] = {}
    for label, own in metrics.items():
        for name, metric in own.items():
            value = metric.compute() if metric.update_called else torch.tensor([])
            if value.ndim == 0:
                found[f"{label}/{name}"] = float(value)
    return found


# --------------------------------------------------------------------------------------- times


def _times(
    computes: Mapping[BenchmarkFormat, Compute], images: Tensor
) -> dict[BenchmarkFormat, dict[int, float]]:
    """Return the median milliseconds of each format at each batch size.

    The formats take turns, so that a busy machine slows all of them.
    """
    found: dict[BenchmarkFormat, dict[int, float]] = {name: {} for name in computes}
    for size in BATCH_SIZES:
        batch = images[:size]
        seconds: dict[BenchmarkFormat, list[float]] = {name: [] for name in computes}
        slowest = 0.0
        for compute in computes.values():
            for _ in range(WARM_UP):
                once = _seconds(compute, batch)
            slowest = max(slowest, once)
        budget = LARGEST_S / len(BATCH_SIZES) / max(1, len(computes))
        rounds = max(3, min(ROUNDS, int(budget / max(slowest, 1e-9))))
        for _ in range(rounds):
            for name, compute in computes.items():
                seconds[name].append(_seconds(compute, batch))
        for name, taken in seconds.items():
            found[name][size] = 1000 * statistics.median(taken)
    return found


def _seconds(compute: Callable[[Tensor], object], batch: Tensor) -> float:
    start = time.perf_counter()
    compute(batch)
    return time.perf_counter() - start
