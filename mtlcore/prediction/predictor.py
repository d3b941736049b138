"""`Predictor`: the network of a run, applied to any source of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from attrs import evolve, frozen
from torch import Tensor

from ..checkpoints import Which
from ..config.component import component
from ..config.experiment import Experiment
from ..contracts import AlignedTask, Answer, Detector, SupervisedTask, View
from ..contracts.detector import Detect
from ..contracts.task import are_points
from ..errors import MtlError
from ..evaluation.decoded import decoded_predictions
from ..evaluation.evaluate import (
    inference_network,
    require_which,
    torch_device,
    with_usable_precision,
)
from ..evaluation.precision import Precision
from ..model.inference import Inference
from ..model.preprocess import Preprocess
from ..registry.plugin_file import split_entry
from ..runs import RunFolder
from .regions import Region, RegionReader
from .results import PredictedImage, PredictedRegion, Prediction
from .sources import Source, items_of


@frozen(eq=False)
class Predictor:
    """Predicts images with the network of a run. `Run.predictor` and `load_package` return it.

    net: in eval mode, on its device. tasks: label -> task. preprocess: that of the run.
    precision: of the forward pass. batch_size: images per forward, at least 1.
    mirror: average each prediction with that of the mirrored image: two forwards.
    detector: finds the regions to predict. None: predict the whole image.
    """

    net: Inference
    tasks: Mapping[str, SupervisedTask]
    preprocess: Preprocess
    precision: Precision = "32"
    batch_size: int = 32
    mirror: bool = False
    detector: Detector | None = None

    def __call__(self, *sources: Source | Iterable[Source]) -> list[Prediction]:
        """Return one prediction for each image (for each region, with a detector), in order.

        sources: paths, folders, globs, tables, videos, Pillow images, arrays, tensors, or
        iterables of them, in any combination; see `mtlcore.prediction.sources.items_of`.

        An image that can't be read gives a prediction with an `error`. Raises MtlError for any
        other source.
        """
        return list(self.stream(*sources))

    def stream(self, *sources: Source | Iterable[Source]) -> Iterator[Prediction]:
        """Yield the predictions one by one, for more images than fit into memory.

        sources: as for a call. A few batches are decoded ahead.
        """
        for image in self.images(*sources):
            for region in image.regions:
                yield region.prediction

    def images(
        self, *sources: Source | Iterable[Source], drawn: bool = False
    ) -> Iterator[PredictedImage]:
        """Yield the predictions of each image together, in order.

        sources: as for a call. drawn: keep the pixels, for `PredictedImage.draw`.
        """
        reader = RegionReader(self.preprocess, self.batch_size, drawn, self.detector, self.detect)
        images = reader.read(items_of(sources))
        while opened := list(islice(images, self.batch_size)):
            regions = [region for one in opened for region in one.regions]
            answered: list[PredictedRegion] = []
            for start in range(0, len(regions), self.batch_size):
                answered += self._answered(regions[start : start + self.batch_size], drawn)
            rest = iter(answered)
            for one in opened:
                yield PredictedImage(one.image, self.tasks, list(islice(rest, len(one.regions))))

    @cached_property
    def detect(self) -> Detect | None:
        """The built detector, None without one. Raises MtlError if it can't be loaded."""
        return self.detector.build() if self.detector else None

    def columns(self) -> list[str]:
        """Return the columns of the rows of this predictor, in order."""
        return list(self.column_types())

    def column_types(self) -> dict[str, type]:
        """Return column -> type of its values: str, int or float, in the order of a row."""
        gray = np.full((*self.preprocess.stored, 3), 128, dtype=np.uint8)
        (region,) = self._answered([Region(Prediction(""), gray, self.preprocess.stored)])
        row = region.prediction.as_row()
        types = {name: str if isinstance(value, str) else float for name, value in row.items()}
        return types | {"frame": int}

    def _answered(self, regions: Sequence[Region], drawn: bool = False) -> list[PredictedRegion]:
        """Predict one batch of regions. Regions with an error do not change."""
        readable = [region for region in regions if region.image is not None]
        answered = iter(self._predicted(readable, drawn) if readable else [])
        found: list[PredictedRegion] = []
        for region in regions:
            if region.image is None:
                found.append(PredictedRegion(region.prediction))
            else:
                answers, view, decoded = next(answered)
                answered_one = evolve(region.prediction, answers=answers)
                found.append(PredictedRegion(answered_one, view, decoded))
        return found

    def _predicted(
        self, regions: Sequence[Region], drawn: bool
    ) -> Iterator[tuple[dict[str, Answer], Tensor | None, dict[str, Tensor]]]:
        """Yield the answers for each region. If drawn, also the view and the predictions."""
        device = next(self.net.parameters()).device
        images = [region.image for region in regions if region.image is not None]
        sizes = [region.size for region in regions]
        view = self.preprocess.view(self.preprocess.stack(images).to(device))
        on_device = decoded_predictions(
            self.net, self.tasks, view.images, self.precision, self.mirror
        )
        decoded = {label: numbers.cpu() for label, numbers in on_device.items()}
        views = view.images.cpu() if drawn else None
        by_task: dict[str, list[Answer]] = {}
        for label, task in self.tasks.items():
            by_task[label] = task.answer(self._in_image(task, decoded[label], view, sizes))
        for i, of_image in enumerate(zip(*by_task.values())):
            answers = dict(zip(by_task, of_image))
            if views is None:
                yield answers, None, {}
            else:
                yield answers, views[i], {label: numbers[i] for label, numbers in decoded.items()}

    def _in_image(
        self, task: SupervisedTask, decoded: Tensor, view: View, sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Return predictions as they are, but points in pixels of the images."""
        if isinstance(task, AlignedTask) and are_points(decoded):
            return self.preprocess.in_image(decoded, view, sizes)
        return decoded


def predictor_of(
    folder: RunFolder,
    *,
    detector: Detector | str | None = None,
    batch_size: int = 32,
    mirror: bool = False,
    which: Which = "last",
    device: str | torch.device | None = None,
) -> Predictor:
    """Return the predictor of a run. The arguments are those of `Run.predictor`.

    Raises MtlError if the run has no task, or no such checkpoint.
    """
    require_which(which)
    experiment = folder.experiment()
    if not experiment.tasks:
        raise MtlError(f"{folder.path} has no supervised task: there is nothing to predict")
    target = torch_device(device)
    if isinstance(detector, str):
        detector = detector_of(detector, folder)
    _, net = folder.read(which, partial(inference_network, experiment))
    net.to(target)
    preprocess = Preprocess.of(experiment)
    return predictor_of_network(net, experiment, preprocess, detector, batch_size, mirror)


def predictor_of_network(
    net: Inference,
    experiment: Experiment,
    preprocess: Preprocess,
    detector: Detector | None,
    batch_size: int,
    mirror: bool,
) -> Predictor:
    """Return the predictor of a network on its device, in the run's precision or fp32.

    Raises MtlError if the batch size is below 1.
    """
    if batch_size < 1:
        raise MtlError(f"batch_size = {batch_size}: expected at least 1")
    resolved, _ = with_usable_precision(experiment, next(net.parameters()).device)
    return Predictor(
        net,
        {label: entry.component for label, entry in resolved.tasks.items()},
        preprocess,
        resolved.train.precision,
        batch_size,
        mirror,
        detector,
    )


def detector_of(
    name: str, folder: RunFolder | None, plugins: Sequence[Path] = (), **fields: object
) -> Detector:
    """Return the detector of this name, in the installed plugins, those of the run, or these files.

    folder: the run, or None.

    Raises MtlError for an unknown name or a wrong field.
    """
    listed = folder.experiment().plugins if folder else ()
    own = [split_entry(entry)[0] for entry in listed]
    return component("detector", name, [*own, *plugins], **fields)
