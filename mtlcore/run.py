"""`Run`: the log, metrics, network and features of a run folder, for Python code."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from attrs import field, frozen

from .checkpoints import Which
from .config.experiment import Experiment
from .config.overrides import Overrides
from .contracts import Detector
from .deployment.benchmark import (
    BENCHMARK_FORMATS,
    Benchmark,
    BenchmarkFormat,
    benchmark_run,
)
from .deployment.export import Exported, export_run
from .deployment.graph import Format
from .deployment.package import write_package
from .errors import MtlError
from .evaluation.evaluate import (
    Evaluation,
    Progress,
    evaluate,
    inference_network,
    open_run,
    require_which,
    torch_device,
    with_one_dataset,
)
from .evaluation.samples import FeatureTable, feature_table
from .model.inference import Inference
from .prediction.predictor import Predictor, predictor_of
from .report.run_report import write_run_report
from .runs import RunFolder

if TYPE_CHECKING:
    import pandas

Row = dict[str, Any]


def working_folder() -> Path:
    """Return the working directory; the relative one if it was deleted meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


@frozen
class Run:
    """A run folder, complete or not. `mtlcore.load_run` and `mtlcore.train` return it.

    path: the folder.
    experiment: the resolved experiment, with all defaults and what was learned from the data.
    """

    path: Path = field(converter=Path)
    # A relative path stays valid if the process changes its working directory, as notebooks do.
    _start: Path = field(factory=working_folder, init=False, eq=False, repr=False)

    @cached_property
    def experiment(self) -> Experiment:
        """The resolved experiment, with all defaults and what was learned from the data."""
        return self._folder().experiment()

    @property
    def summary(self) -> Mapping[str, Any]:
        """The contents of run.json: versions, device, steps, compute, validation metrics."""
        return self._folder().provenance()

    @overload
    def metrics(self, frame: Literal[False] = ...) -> list[Row]: ...
    @overload
    def metrics(self, frame: Literal[True]) -> pandas.DataFrame: ...
    def metrics(self, frame: bool = False) -> list[Row] | pandas.DataFrame:
        """Return the log, one dict for each logged step or evaluation.

        Each has "step". Rows of training have "loss/<label>" and "lr", rows of evaluations have
        "validation/<label>/<metric>".

        frame: return a pandas DataFrame instead. Raises MtlError if pandas is not installed.
        """
        rows = self._folder().log.rows()
        if not frame:
            return rows
        try:
            import pandas
        except ImportError as error:
            raise MtlError(
                "metrics(frame=True) needs pandas: type `pip install pandas`, "
                "or call metrics() for a list of dicts"
            ) from error
        return pandas.DataFrame(rows)

    def evaluate(
        self,
        split: str = "test",
        *,
        data: str | None = None,
        per_sample: bool = False,
        mirror: bool = False,
        checkpoint: Which = "last",
        device: str | torch.device | None = None,
        overrides: Overrides | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Return all supervised metrics on a split, in the precision of the run.

        split: "train", "validation", "test", or another split of the data.
        data: label of the only dataset to evaluate on, in the experiment or in `overrides`.
        per_sample: also return the prediction for each sample.
        mirror: average the predictions for each image and its mirror image.
        checkpoint: "last" (the one to report), or "best" (on validation).
        device: such as "cpu" or "cuda:1" (default: a GPU if there is one).
        overrides: dotted key -> value, such as {"data.faces.root": "/data/faces"}.
        progress: called with a description, the images read so far, and their total.

        Raises MtlError if there is no task, no such checkpoint, or no sample in the split.
        """
        return evaluate(
            self._folder().path,
            data=data,
            overrides=overrides or (),
            split=split,
            per_sample=per_sample,
            which=checkpoint,
            mirror=mirror,
            device=device,
            progress=progress,
        )

    def model(
        self, checkpoint: Which = "last", device: str | torch.device | None = None
    ) -> Inference:
        """Return the encoder and the supervised heads, in eval mode.

        The module converts RGB images (B, 3, H, W) in [0, 1], with H and W as `input.size`, to a
        dict: task -> output of its head. The task's `decode` converts the output to a prediction.
        Its `encoder` converts the images to `Features`. Do not normalize the images: both do it.

        device: such as "cuda" (default: the CPU).
        Raises MtlError if there is no such checkpoint.
        """
        require_which(checkpoint)
        target = torch_device(device or "cpu")
        build = partial(inference_network, self.experiment)
        _, net = self._folder().read(checkpoint, build)
        return net.to(target)

    def predictor(
        self,
        *,
        detector: Detector | str | None = None,
        batch_size: int = 32,
        mirror: bool = False,
        checkpoint: Which = "last",
        device: str | torch.device | None = None,
    ) -> Predictor:
        """Return an object that predicts images: `run.predictor()("photos/")`.

        detector: finds the regions to predict. A name, such as "faces", or a component (default:
        predict the whole image).
        batch_size: images per forward, at least 1.
        mirror: average the predictions of each image and its mirror image: two forwards.
        checkpoint: "last" (the one to report), or "best" (on validation).
        device: such as "cpu" or "cuda:1" (default: a GPU if there is one).

        Raises MtlError if the run has no task, or no such checkpoint.
        """
        return predictor_of(
            self._folder(),
            detector=detector,
            batch_size=batch_size,
            mirror=mirror,
            which=checkpoint,
            device=device,
        )

    def package(
        self,
        out: str | os.PathLike[str],
        *,
        checkpoint: Which = "last",
        evaluation: Evaluation | None = None,
        license_name: str = "",
        study: str | os.PathLike[str] | None = None,
        onnx: bool = False,
        overrides: Overrides | None = None,
    ) -> Path:
        """Write the model to a new folder in the layout of model hubs, and return the folder.

        `mtlcore.load_package` reads it without the run and its data.

        checkpoint: "last" (the one to report), or "best" (on validation).
        evaluation: of this run and checkpoint. Its metrics appear in the model card (default: those
            of validation that the run logged at the step of the checkpoint).
        license_name: license of the package, for the model card.
        study: a Markdown file for the card, such as a study's table with controls and intervals.
        onnx: also write model.onnx, checked as `export` does.
        overrides: for the data of this check, such as {"data.faces.root": "/data/faces"}.

        Raises MtlError if `out` exists, if the run has no task or no such checkpoint, if the
        evaluation is of another run or checkpoint, or if the study can't be read.
        """
        require_which(checkpoint)
        folder = Path(out)
        write_package(
            self._folder(),
            folder,
            which=checkpoint,
            evaluation=evaluation,
            license_name=license_name,
            study=None if study is None else Path(study),
            onnx=onnx,
            overrides=overrides or (),
        )
        return folder

    def export(
        self,
        path: Path | str,
        format: Format | None = None,  # noqa: A002 (the name of the option `--format`)
        *,
        checkpoint: Which = "last",
        data_samples: int = 1000,
        overrides: Overrides | None = None,
    ) -> Exported:
        """Write the run as one file: uint8 images -> the numbers of all tasks.

        The file is checked against the run on images of the splits validation, test and train, or
        on random images if the data can't be opened.

        path: the file to write. It must not exist.
        format: "onnx", for ONNX Runtime; or "torch-export", for `torch.export.load` (default: by
            the ending of the file: torch-export for .pt2, otherwise onnx). It can't contradict the
            ending .onnx or .pt2.
        checkpoint: "last" (the one to report), or "best" (on validation).
        data_samples: the number of images to check, at least 1.
        overrides: dotted key -> value, such as {"data.faces.root": "/data/faces"}.

        Raises MtlError if a component can't be exported, if a package is missing, or if the file
        does not give the answers of the run. No file is written then.
        """
        return export_run(
            self._folder(),
            Path(path),
            format,
            which=checkpoint,
            data_samples=data_samples,
            overrides=overrides or (),
        )

    def benchmark(
        self,
        formats: Sequence[BenchmarkFormat] = BENCHMARK_FORMATS,
        *,
        split: str | None = None,
        n: int = 1000,
        checkpoint: Which = "last",
        overrides: Overrides | None = None,
    ) -> Benchmark:
        """Compare formats of the run on this CPU: accuracy on a split, time, size on disk.

        formats: any of "torch", "torch-compile", "torch-export" and "onnx". If a format does not
        work on this machine, its result has an `error`.
        split, n: the samples for the main metric of each task, evenly spaced over the split
            (default: test; no metrics if it can't be opened).
        checkpoint: "last" (the one to report), or "best" (on validation).
        overrides: dotted key -> value, such as {"data.faces.root": "/data/faces"}.

        Raises MtlError for an unknown format, if there is no such checkpoint, or if a split that
        you name can't be opened.
        """
        return benchmark_run(
            self._folder(),
            formats,
            split=split,
            n=n,
            which=checkpoint,
            overrides=overrides or (),
        )

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        split: str | None = None,
        overrides: Overrides | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Write a report of the run as one HTML file, and return its path.

        It shows what can be shown: of a run in progress, of one without validation, of one whose
        data is gone. For everything else it says why not.

        path: the .html file to write. An existing one is replaced.
        split: the split to evaluate on (default: test; validation if the run is not finished).
        overrides: dotted key -> value, such as {"data.faces.root": "/data/faces"}.
        progress: called with a description, the images read so far, and their total.

        Raises MtlError if the file can't be written, if the data has no such split, or if
        matplotlib or jinja2 is missing.
        """
        file = Path(path)
        write_run_report(
            self._folder(), file, split=split, overrides=overrides or (), progress=progress
        )
        return file

    def features(
        self,
        split: str = "train",
        *,
        data: str | None = None,
        checkpoint: Which = "last",
        device: str | torch.device | None = None,
        annotations: Sequence[str] = (),
        overrides: Overrides | None = None,
        progress: Progress | None = None,
    ) -> FeatureTable:
        """Return the pooled features of the samples of a split, with their labels and keys.

        The features are those of evaluation: eval mode, the augmentation "validation".

        data, checkpoint, device, overrides, progress: as in `evaluate`.
        annotations: names of annotations of the data that are returned as labels too. A run without
        tasks has no other labels.

        Raises MtlError if there is no such checkpoint, or no sample in the split.
        """
        folder = self._folder()
        experiment = with_one_dataset(folder.experiment(overrides or ()), data)
        opened = open_run(folder, experiment, split, checkpoint, device, progress)
        return feature_table(
            opened.net,
            opened.experiment,
            opened.data,
            opened.indices,
            opened.device,
            annotations,
        )

    def _folder(self) -> RunFolder:
        return RunFolder.open(self._start / self.path)
