"""Predict images: from any source to one row for each image, in words and real units."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from attrs import evolve, field, frozen

from ..checkpoints import Which
from ..config.experiment import Experiment
from ..contracts import Answer, Detector, SupervisedTask
from ..contracts.detector import Detect
from ..data.cache import threads
from ..errors import MtlError
from ..model.inference import Inference
from ..model.preprocess import Preprocess
from ..runs import RunFolder
from .decoded import decoded_predictions
from .evaluate import inference_network, require_which, torch_device, with_usable_precision
from .precision import Precision
from .sources import Item, Source, items_of

AHEAD = 2  # batches that are decoded while the network computes, beyond one for each thread


@frozen
class Prediction:
    """What a run says about one image, or about one region that a detector found in it.

    file: its path, "" for an image in memory. frame: number of the frame in a video, from 0.
    answers: task label -> answer (`SupervisedTask.answer`). Empty if there is an error.
    box: left, top, right, bottom of the region in pixels. score: of the detector, in [0, 1].
    error: why there is no answer; "" if there is one.
    """

    file: str
    answers: Mapping[str, Answer] = field(factory=dict)
    frame: int | None = None
    box: tuple[float, float, float, float] | None = None
    score: float | None = None
    error: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the prediction as JSON-compatible data."""
        return {
            "file": self.file,
            "frame": self.frame,
            "box": self.box,
            "score": self.score,
            "answers": dict(self.answers),
            "error": self.error,
        }

    def as_row(self) -> dict[str, object]:
        """Return the prediction as one flat row of a table.

        The columns of an answer are "<task>/<name>", such as "fer/label" and
        "fer/probabilities/fear". Lists are joined by "|".
        """
        row: dict[str, object] = {"file": self.file, "frame": self.frame}
        sides = self.box or (None,) * 4
        row |= dict(zip(("left", "top", "right", "bottom"), sides)) | {"score": self.score}
        for label, answer in self.answers.items():
            row |= _flat(label, answer)
        return row | {"error": self.error}


@frozen(eq=False)
class Predictor:
    """Predicts images with the network of a run. `Run.predictor` and `load_package` return it.

    net: in eval mode, on the device. tasks: label -> task. preprocess: as in training.
    precision: of the forwards. batch_size: images of one forward, at least 1.
    mirror: average each prediction with that for the mirrored image: two forwards.
    detector: finds the regions to predict; None: the whole image.
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
        iterables of them, in any mixture; see `mtlcore.evaluation.sources.items_of`.

        An image that can't be read gives a prediction with `error`. Raises MtlError for a source
        that is none of these.
        """
        return list(self.stream(*sources))

    def stream(self, *sources: Source | Iterable[Source]) -> Iterator[Prediction]:
        """Yield the predictions one by one, for more images than fit into memory.

        The arguments are those of a call. A few batches are decoded ahead.
        """
        for regions in _decoded_ahead(items_of(sources), self, self.detect):
            for start in range(0, len(regions), self.batch_size):
                yield from self._answered(regions[start : start + self.batch_size])

    @cached_property
    def detect(self) -> Detect | None:
        """The detector, loaded on first use; None without one. Raises MtlError as its `build`."""
        return self.detector.build() if self.detector else None

    def columns(self) -> list[str]:
        """Return the columns of the rows of this predictor, in order."""
        gray = np.full((*self.preprocess.stored, 3), 128, dtype=np.uint8)
        (prediction,) = self._answered([_Region(Prediction(""), gray)])
        return list(prediction.as_row())

    def _answered(self, regions: Sequence[_Region]) -> list[Prediction]:
        """Predict one batch of regions. Those with an error stay as they are."""
        images = [region.image for region in regions if region.image is not None]
        answers = iter(self._answers(images) if images else [])
        found: list[Prediction] = []
        for region in regions:
            prediction = region.prediction
            if region.image is not None:
                prediction = evolve(prediction, answers=next(answers))
            found.append(prediction)
        return found

    def _answers(self, images: Sequence[np.ndarray]) -> list[dict[str, Answer]]:
        """Return the answers of all tasks, one dict for each stored image."""
        device = next(self.net.parameters()).device
        view = self.preprocess.view(self.preprocess.stack(images).to(device))
        decoded = decoded_predictions(
            self.net, self.tasks, view.images, self.precision, self.mirror
        )
        by_task = {label: task.answer(decoded[label].cpu()) for label, task in self.tasks.items()}
        return [dict(zip(by_task, of_image)) for of_image in zip(*by_task.values())]


def predictor_of(
    folder: RunFolder,
    *,
    detector: Detector | None = None,
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
    net = inference_network(experiment, folder.require(which)).to(target)
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


# ------------------------------------------------------------------------------------ regions


@frozen(eq=False)
class _Region:
    """One region to predict, and its prediction so far. image: stored; None after an error."""

    prediction: Prediction
    image: np.ndarray | None


def _decoded_ahead(
    items: Iterator[Item], predictor: Predictor, detect: Detect | None
) -> Iterator[list[_Region]]:
    """Decode items in batches, by threads, some batches ahead, and yield them in order."""
    waiting: deque[Future[list[_Region]]] = deque()
    with ThreadPoolExecutor(threads(), "decode") as pool:
        try:
            while batch := list(islice(items, predictor.batch_size)):
                waiting.append(pool.submit(_regions_of_all, batch, predictor, detect))
                if len(waiting) > threads() + AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # If the caller stops early, the remaining batches must not be decoded.
            pool.shutdown(wait=False, cancel_futures=True)


def _regions_of_all(
    items: Sequence[Item], predictor: Predictor, detect: Detect | None
) -> list[_Region]:
    return [region for item in items for region in _regions(item, predictor, detect)]


def _regions(item: Item, predictor: Predictor, detect: Detect | None) -> list[_Region]:
    """Open an item, find its regions, and crop and resize them."""
    whole = Prediction(item.name, frame=item.frame)
    try:
        image = item.open()
        if detect is None or predictor.detector is None:
            return [_Region(whole, predictor.preprocess.store(image))]
        found = detect(image)
        if not len(found):
            return [_Region(evolve(whole, error="the detector found nothing"), None)]
        regions: list[_Region] = []
        for box, score in zip(found.boxes, found.scores):
            left, top, right, bottom = (float(side) for side in box)
            one = evolve(whole, box=(left, top, right, bottom), score=float(score))
            crop = predictor.detector.crop(image, box)
            regions.append(_Region(one, predictor.preprocess.store(crop)))
        return regions
    except MtlError as error:
        return [_Region(evolve(whole, error=str(error)), None)]


def _flat(prefix: str, value: object) -> dict[str, object]:
    """Flatten nested dicts to "<prefix>/<name>" columns."""
    if isinstance(value, Mapping):
        found: dict[str, object] = {}
        for name, inner in value.items():
            found |= _flat(f"{prefix}/{name}", inner)
        return found
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {prefix: "|".join(value)}
    return {prefix: value}
