"""One graph from uint8 images to the numbers of all tasks, as a file that needs no mtlcore.

images (B, 3, h, w) uint8, as `Preprocess.store` returns them
    -> the view of the encoder -> encoder -> heads -> `decode` -> `answer_numbers`
    -> task label -> (B, n) float32: probabilities, or values in real units

The batch size is free. h and w are those of the image cache. The graph contains no resize, because
no operator of torch or ONNX gives Pillow's pixels, so answers would differ (docs/export.md has
figures).
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..contracts import SupervisedTask
from ..errors import MtlError, nearest
from ..files import write_atomically, write_errors_as_mtl_error
from ..model.inference import Inference
from ..model.preprocess import Preprocess

if TYPE_CHECKING:
    import onnx

Format = Literal["onnx", "torch-export"]
FORMATS: tuple[Format, ...] = get_args(Format)

METADATA = "mtlcore"
"""The key of the metadata in an ONNX file. A torch.export file calls it "mtlcore.json"."""

Metadata = Mapping[str, Any]
Compute = Callable[[Tensor], dict[str, Tensor]]
"""images (B, 3, h, w) uint8 on the CPU -> task label -> (B, ...) float32."""

EXAMPLE_IMAGES = 4  # with fewer than 2, torch.export fixes the batch size


class _Part(nn.Module):
    """A graph, or its first part. preprocess: makes its input."""

    preprocess: Preprocess


class ExportedGraph(_Part):
    """Stored images (B, 3, h, w) uint8 -> task label -> numbers (B, n) float32.

    net: in eval mode, on the CPU.
    numbers: True to apply `answer_numbers`. False to return predictions as `decode` does, for
    metrics.
    """

    def __init__(
        self,
        net: Inference,
        tasks: Mapping[str, SupervisedTask],
        preprocess: Preprocess,
        numbers: bool = True,
    ) -> None:
        super().__init__()
        self.net = net
        self.tasks = dict(tasks)
        self.preprocess = preprocess
        self.numbers = numbers

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.net(self.preprocess.view(images).images)
        found: dict[str, Tensor] = {}
        for label, task in self.tasks.items():
            decoded = task.decode(outputs[label])
            found[label] = numbers_of(task, decoded) if self.numbers else decoded
        return found


def numbers_of(task: SupervisedTask, decoded: Tensor) -> Tensor:
    """Convert predictions (B, ...) to numbers (B, n) float32, or to maps (B, ...)."""
    numbers = task.answer_numbers(decoded).float()
    return numbers[:, None] if numbers.ndim == 1 else numbers


def input_name(labels: Mapping[str, object]) -> str:
    """Return the name of the graph's input: "images", or a longer name if a task is called so."""
    name = "images"
    while name in labels:
        name += "_"
    return name


ENDINGS = (".onnx", ".pt2")
"""The endings of files that name their format."""


def format_of(path: Path) -> Format:
    """Return the format that the ending of a file names: torch-export for .pt2, otherwise onnx."""
    return "torch-export" if path.suffix == ".pt2" else "onnx"


def require_format(name: str) -> None:
    """Raise MtlError unless this is a format, and the packages that it needs are installed."""
    if name not in FORMATS:
        raise MtlError(f"format = {name!r}: unknown; {nearest(name, FORMATS)}")
    if name == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise MtlError(
                f"the format onnx needs onnx, onnxscript and onnxruntime ({error}): "
                'type `pip install "mtlcore[export]"`, or take the format torch-export'
            ) from error


def write_graph(graph: ExportedGraph, file: Path, file_format: Format, metadata: Metadata) -> None:
    """Write a graph to a file.

    metadata: JSON-compatible. Raises MtlError if a part can't be exported (the message names the
    encoder or the task), if a package is missing, or if the file can't be written.
    """
    require_format(file_format)
    text = json.dumps(metadata)
    if file_format == "onnx":
        data = _onnx_bytes(graph, text)
    else:
        program = traced(graph)
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={f"{METADATA}.json": text})
        data = buffer.getvalue()
    with write_errors_as_mtl_error(file):
        write_atomically(file, data)


def load_graph(file: Path, file_format: Format, labels: tuple[str, ...]) -> Compute:
    """Load a file that `write_graph` wrote, as a function. labels: the labels of its tasks."""
    if file_format == "onnx":
        return _load_onnx(file, labels)
    with file.open("rb") as opened:  # torch warns if a path does not end in .pt2
        return without_gradient(torch.export.load(opened).module())


def without_gradient(module: Callable[[Tensor], dict[str, Tensor]]) -> Compute:
    """Return a module as a function that computes no gradient."""

    def compute(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(images)

    return compute


def read_metadata(file: Path, file_format: Format) -> dict[str, Any]:
    """Return the metadata of a file that `write_graph` wrote."""
    if file_format == "onnx":
        import onnx

        props = onnx.load(str(file), load_external_data=False).metadata_props
        text = {entry.key: entry.value for entry in props}[METADATA]
    else:
        extra: dict[str, Any] = {f"{METADATA}.json": ""}
        with file.open("rb") as opened:
            torch.export.load(opened, extra_files=extra)
        text = extra[f"{METADATA}.json"]
    found: dict[str, Any] = json.loads(text)
    return found


# -------------------------------------------------------------------------------------- tracing


def traced(graph: ExportedGraph) -> torch.export.ExportedProgram:
    """Trace a graph with a free batch size. Raises MtlError that names the part that fails."""
    try:
        return _trace(graph)
    # Tracing runs code of plugins, which can raise anything.
    except Exception as error:
        raise _error_of_part(graph, error, _trace) from error


def _trace(part: _Part) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    with _quiet():
        return torch.export.export(part.eval(), (_probe(part),), dynamic_shapes=({0: batch},))


def _probe(part: _Part) -> Tensor:
    return torch.zeros(EXAMPLE_IMAGES, 3, *part.preprocess.stored, dtype=torch.uint8)


class _UpToHeads(_Part):
    """A graph that ends before `decode`: images -> the outputs of some heads.

    labels: of the heads; none for the features of the encoder.
    """

    def __init__(self, graph: ExportedGraph, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.net = graph.net
        self.preprocess = graph.preprocess
        self.labels = labels

    def forward(self, images: Tensor) -> object:
        features = self.net.encoder(self.preprocess.view(images).images)
        if not self.labels:
            return features.pooled
        return {label: self.net.heads[label](features) for label in self.labels}


def _error_of_part(
    graph: ExportedGraph, error: Exception, attempt: Callable[[_Part], object]
) -> MtlError:
    """Return the error that names the first part that can't be exported, and says what to do.

    attempt: the conversion that failed for the whole graph.
    """
    encoder = type(graph.net.encoder.net).__name__
    reason = _failure(_UpToHeads(graph, ()), attempt)
    if reason:
        return MtlError(f"the encoder {encoder} can't be exported: {reason}")
    for label, task in graph.tasks.items():
        where = f"[task.{label}] ({type(task).__name__})"
        reason = _failure(_UpToHeads(graph, (label,)), attempt)
        if reason:
            return MtlError(f"{where}: its head can't be exported: {reason}")
        alone = ExportedGraph(graph.net, {label: task}, graph.preprocess, graph.numbers)
        reason = _failure(alone, attempt)
        if reason:
            return MtlError(
                f"{where}: its `decode` or `answer_numbers` can't be exported: {reason}. "
                "Use only torch operations there: no numpy, no .item(), no `if` on values, and "
                "`x.shape[0]` instead of `len(x)`"
            )
    return MtlError(f"the network can't be exported: {_reason(error)}")


def _failure(part: _Part, attempt: Callable[[_Part], object]) -> str:
    """Return why a part can't be exported, "" if it can."""
    try:
        attempt(part)
    except Exception as error:  # noqa: BLE001 (as in `traced`)
        return _reason(error)
    return ""


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost exception: torch wraps it in several others."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of the exporters, which concern their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ----------------------------------------------------------------------------------------- onnx


def _onnx_bytes(graph: ExportedGraph, metadata: str) -> bytes:
    """Return an ONNX file with outputs named by task. metadata: JSON."""

    def attempt(part: _Part) -> onnx.ModelProto:
        return _to_onnx(part, _trace(part))

    program = traced(graph)
    try:
        model = _to_onnx(graph, program, list(graph.tasks))
    except Exception as error:  # the converter raises nearly any exception
        raise _error_of_part(graph, error, attempt) from error
    _name_batch(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, metadata
    try:
        data: bytes = model.SerializeToString()
    except ValueError as error:  # protobuf's limit
        raise MtlError(
            "the network is larger than 2 GB, the limit of an ONNX file: "
            "take the format torch-export"
        ) from error
    return data


def _to_onnx(
    part: _Part, program: torch.export.ExportedProgram, labels: list[str] | None = None
) -> onnx.ModelProto:
    with _quiet():
        found = torch.onnx.export(
            program,
            (_probe(part),),
            dynamo=True,
            verbose=False,
            custom_translation_table=_translations(),
            input_names=[input_name(dict.fromkeys(labels or ()))],
            output_names=labels,
        )
    assert found is not None
    model: onnx.ModelProto = found.model_proto
    return model


def _translations() -> dict[Callable[..., object], Callable[..., object]]:
    """Return conversions of operations that torch's ONNX exporter lacks."""
    from onnxscript import opset18 as op

    def hypot(x, y):  # type: ignore[no-untyped-def]
        return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))

    return {torch.ops.prims.hypot.default: hypot}


def _name_batch(model: onnx.ModelProto) -> None:
    """Name the free first dimension "batch" instead of torch's symbol (s34)."""
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        if shape.dim and shape.dim[0].dim_param:
            shape.dim[0].dim_param = "batch"
    # Inner shapes still use torch's symbol. No runtime needs them.
    del model.graph.value_info[:]


def _load_onnx(file: Path, labels: tuple[str, ...]) -> Compute:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def compute(images: Tensor) -> dict[str, Tensor]:
        found = session.run(list(labels), {name: images.numpy()})
        return {label: torch.from_numpy(array) for label, array in zip(labels, found)}

    return compute
