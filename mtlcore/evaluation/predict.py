"""Predict images: from any source to one row for each image, in words and real units."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from attrs import evolve, field, frozen
from torch import Tensor

from ..checkpoints import Which
from ..config.component import component
from ..config.experiment import Experiment
from ..contracts import AlignedTask, Answer, Detector, SupervisedTask, View
from ..contracts.components import are_points
from ..contracts.detector import Detect
from ..data.cache import threads
from ..errors import MtlError
from ..model.inference import Inference
from ..model.preprocess import Preprocess
from ..registry.plugin_file import split_entry
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
class Region:
    """One predicted region. view: (3, h, w) that the network read; decoded: task -> prediction.

    Both are kept for drawing alone.
    """

    prediction: Prediction
    view: Tensor | None = None
    decoded: Mapping[str, Tensor] = field(factory=dict)


@frozen(eq=False)
class PredictedImage:
    """One image and the predictions for its regions, at least one.

    image: (H, W, 3) uint8, upright; None if it was not kept or can't be read.
    """

    image: np.ndarray | None
    tasks: Mapping[str, SupervisedTask]
    regions: Sequence[Region]

    def draw(self) -> np.ndarray | None:
        """Return a page (H, W, 3) uint8: the image with its boxes, and what each task draws.

        None for an image that can't be read, or was not kept.
        """
        from .drawn import page

        if self.image is None:
            return None
        predictions = [region.prediction for region in self.regions]
        drawings = [self._drawings(region) for region in self.regions]
        return page(
            self.image,
            [prediction.box for prediction in predictions],
            drawings,
            next((prediction.error for prediction in predictions if prediction.error), ""),
        )

    def _drawings(self, region: Region) -> list[Tensor]:
        """What each task draws on what the network read, (3, h, w) in [0, 1]."""
        from .drawn import drawing, with_caption

        if region.view is None:
            return []
        drawings: list[Tensor] = []
        for name, task in self.tasks.items():
            drawn = drawing(task, region.view, region.decoded[name])
            words = answer_in_words(region.prediction.answers[name])
            drawings.append(with_caption(drawn, f"{name}: {words}"))
        return drawings


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
        for image in self.images(*sources):
            for region in image.regions:
                yield region.prediction

    def images(
        self, *sources: Source | Iterable[Source], drawn: bool = False
    ) -> Iterator[PredictedImage]:
        """Yield the predictions of each image together, in order.

        The arguments are those of a call.

        drawn: also keep the pixels, for `PredictedImage.draw`.
        """
        for opened in _decoded_ahead(items_of(sources), self, self.detect, drawn):
            regions = [region for one in opened for region in one.regions]
            answered: list[Region] = []
            for start in range(0, len(regions), self.batch_size):
                answered += self._answered(regions[start : start + self.batch_size], drawn)
            rest = iter(answered)
            for one in opened:
                yield PredictedImage(one.image, self.tasks, list(islice(rest, len(one.regions))))

    @cached_property
    def detect(self) -> Detect | None:
        """The detector, loaded on first use; None without one. Raises MtlError as its `build`."""
        return self.detector.build() if self.detector else None

    def columns(self) -> list[str]:
        """Return the columns of the rows of this predictor, in order."""
        gray = np.full((*self.preprocess.stored, 3), 128, dtype=np.uint8)
        (region,) = self._answered([_Stored(Prediction(""), gray, self.preprocess.stored)])
        return list(region.prediction.as_row())

    def _answered(self, regions: Sequence[_Stored], drawn: bool = False) -> list[Region]:
        """Predict one batch of regions. Those with an error stay as they are."""
        readable = [region for region in regions if region.image is not None]
        answered = iter(self._predicted(readable, drawn) if readable else [])
        found: list[Region] = []
        for region in regions:
            if region.image is None:
                found.append(Region(region.prediction))
            else:
                answers, view, decoded = next(answered)
                found.append(Region(evolve(region.prediction, answers=answers), view, decoded))
        return found

    def _predicted(
        self, regions: Sequence[_Stored], drawn: bool
    ) -> Iterator[tuple[dict[str, Answer], Tensor | None, dict[str, Tensor]]]:
        """Yield the answers of all tasks for each region; if drawn, also what they read."""
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


# ------------------------------------------------------------------------------------ regions


@frozen(eq=False)
class _Stored:
    """One region to predict, and its prediction so far.

    image: stored; None after an error. size: (H, W) of the region in the image, in pixels.
    """

    prediction: Prediction
    image: np.ndarray | None
    size: tuple[int, int] = (0, 0)


@frozen(eq=False)
class _Opened:
    """One image and its regions, at least one. image: (H, W, 3) uint8, if it is kept."""

    image: np.ndarray | None
    regions: list[_Stored]


def _decoded_ahead(
    items: Iterator[Item], predictor: Predictor, detect: Detect | None, keep: bool
) -> Iterator[list[_Opened]]:
    """Decode items in batches, by threads, some batches ahead, and yield them in order.

    keep: also keep the images themselves.
    """
    waiting: deque[Future[list[_Opened]]] = deque()
    with ThreadPoolExecutor(threads(), "decode") as pool:
        try:
            while batch := list(islice(items, predictor.batch_size)):
                waiting.append(pool.submit(_opened_all, batch, predictor, detect, keep))
                if len(waiting) > threads() + AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # If the caller stops early, the remaining batches must not be decoded.
            pool.shutdown(wait=False, cancel_futures=True)


def _opened_all(
    items: Sequence[Item], predictor: Predictor, detect: Detect | None, keep: bool
) -> list[_Opened]:
    return [_opened(item, predictor, detect, keep) for item in items]


def _opened(item: Item, predictor: Predictor, detect: Detect | None, keep: bool) -> _Opened:
    """Open an item, find its regions, and crop and resize them."""
    whole = Prediction(item.name, frame=item.frame)
    try:
        image = item.open()
    except MtlError as error:
        return _Opened(None, [_Stored(evolve(whole, error=str(error)), None)])
    kept = image if keep else None
    try:
        return _Opened(kept, _regions(whole, image, predictor, detect))
    except MtlError as error:
        return _Opened(kept, [_Stored(evolve(whole, error=str(error)), None)])


def _regions(
    whole: Prediction, image: np.ndarray, predictor: Predictor, detect: Detect | None
) -> list[_Stored]:
    if detect is None or predictor.detector is None:
        return [_Stored(whole, predictor.preprocess.store(image), _size(image))]
    found = detect(image)
    regions: list[_Stored] = []
    for box, score in zip(found.boxes, found.scores):
        left, top, right, bottom = (float(side) for side in box)
        one = evolve(whole, box=(left, top, right, bottom), score=float(score))
        crop = predictor.detector.crop(image, box)
        regions.append(_Stored(one, predictor.preprocess.store(crop), _size(crop)))
    return regions or [_Stored(evolve(whole, error="the detector found nothing"), None)]


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def answer_in_words(answer: Answer) -> str:
    """Return the label, the labels, or the numbers of an answer, on one line."""
    if "label" in answer:
        probability = answer.get("probability")
        shown = f" {probability:.2f}" if isinstance(probability, float) else ""
        return f"{answer['label']}{shown}"
    if "labels" in answer:
        return ", ".join(answer["labels"]) or "none"
    return ", ".join(_named(name, value) for name, value in answer.items())


def _named(name: str, value: object) -> str:
    if isinstance(value, float | int):
        return f"{name} {value:.4g}"
    if isinstance(value, Mapping):  # the shares of classes in a map
        return ", ".join(_named(*one) for one in value.items())
    if isinstance(value, list):
        return f"{name} ({len(value)})"
    return f"{name} {value}"


def _flat(prefix: str, value: object) -> dict[str, object]:
    """Flatten nested dicts to "<prefix>/<name>" columns. A map fits into no row: it is left out."""
    if isinstance(value, Mapping):
        found: dict[str, object] = {}
        for name, inner in value.items():
            found |= _flat(f"{prefix}/{name}", inner)
        return found
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {prefix: "|".join(value)}
    if isinstance(value, list):
        return _columns_of_points(prefix, value) if prefix.endswith("/points") else {}
    return {prefix: value}


def _columns_of_points(prefix: str, points: list[tuple[float, float]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for number, (x, y) in enumerate(points):
        found |= {f"{prefix}/{number}/x": x, f"{prefix}/{number}/y": y}
    return found
