"""`input.sampling`: how often each labeled sample of a dataset is drawn.

It acts within each dataset. `input.mix` and `data.<label>.weight` decide how datasets share a
batch, whatever the sampling is.
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from ..config.experiment import Experiment
from ..errors import MtlError, first_few
from .run_data import RunData
from .streams import BalancedStream, ShuffledStream, Stream, WeightedStream

SHOWN = 3  # samples or classes in a message


@frozen(eq=False)
class Sampling:
    """The streams of labeled samples for `input.sampling` other than "shuffle".

    micro_batches: of each step, over all ranks.
    """

    data: RunData
    experiment: Experiment
    micro_batches: int

    def stream(self, label: str, own: np.ndarray, quota: int, name: str) -> Stream:
        """Return the stream of one dataset.

        label: of the dataset. own: (n,) int64, its labeled training samples. quota: how many of
        them each micro-batch gets. name: of the draws.

        Raises MtlError for a class without a sample, for a step that can't hold each class, and for
        weights that are no weights.
        """
        if self.experiment.input.sampling == "balanced":
            return self._balanced(label, own, quota, name)
        return self._weighted(label, own, quota, name)

    # ------------------------------------------------------------------------------ balanced

    def _balanced(self, label: str, own: np.ndarray, quota: int, name: str) -> Stream:
        task, classes = self._classes()
        seed = self.experiment.seed
        numbers = self._class_numbers(task, own)
        streams: list[ShuffledStream] = []
        for number, class_name in enumerate(classes):
            of_class = own[numbers == number]
            if len(of_class):
                streams.append(ShuffledStream(of_class, quota, seed, f"{name} class {class_name}"))
        others = ShuffledStream(own[numbers < 0], quota, seed, name)
        if not streams:
            return others  # no sample of this dataset has a label of the task
        stream = BalancedStream(streams, others, quota, seed, f"{name} classes")
        self._require_each_class(label, task, stream)
        return stream

    def _classes(self) -> tuple[str, tuple[str, ...]]:
        """Return the label and the classes of the task whose classes are balanced.

        Raises MtlError if there is no such task, if it is not clear which one, or if a class has
        no training sample.
        """
        candidates = [label for label in self.experiment.tasks if self._has_one_class(label)]
        task = self.experiment.input.sampling_by
        if task is None:
            if len(candidates) != 1:
                found = f"{len(candidates)} tasks have ({', '.join(candidates)})"
                raise MtlError(
                    'input.sampling = "balanced" needs a task with one class for each image, and '
                    f"{found if candidates else 'no task has that'}: set input.sampling_by to the "
                    'label of the task to balance, or input.sampling = "shuffle"'
                )
            task = candidates[0]
        if task not in candidates:
            names = ", ".join(candidates) or "none"
            raise MtlError(
                f'input.sampling_by = {task!r}: input.sampling = "balanced" needs a task with one '
                f"class for each image; tasks that have that: {names}"
            )
        classes = self.experiment.tasks[task].component.classes
        self._require_samples(task, classes)
        return task, classes

    def _has_one_class(self, label: str) -> bool:
        """Whether each target of this task is the number of one of its classes."""
        component, target = self.experiment.tasks[label].component, self.data.targets.get(label)
        if target is None or component.answer_format().form != "label":
            return False
        return target.ndim == 1 and not target.is_floating_point() and bool(component.classes)

    def _class_numbers(self, task: str, samples: np.ndarray) -> np.ndarray:
        """Return the class numbers of these samples, (n,) int64; -1 without a label."""
        numbers = self.data.targets[task].numpy()[samples]
        return np.where(self.data.present[task].numpy()[samples], numbers, -1)

    def _require_samples(self, task: str, classes: tuple[str, ...]) -> None:
        numbers = self._class_numbers(task, self.data.split["train"])
        counts = np.bincount(numbers[numbers >= 0], minlength=len(classes))
        missing = [classes[number] for number in np.flatnonzero(counts == 0)]
        if missing:
            shown = first_few([repr(name) for name in missing], SHOWN)
            raise MtlError(
                f'input.sampling = "balanced": task.{task} has classes without a training sample '
                f"({shown}), so no step can draw them: remove them from task.{task}.classes, or "
                'set input.sampling = "shuffle"'
            )

    def _require_each_class(self, label: str, task: str, stream: BalancedStream) -> None:
        """Raise MtlError if some step would lack a class."""
        count, fewest = len(stream.classes), stream.fewest(self.micro_batches)
        if fewest >= count:
            return
        size = self.experiment.input.batch_size
        raise MtlError(
            f'input.sampling = "balanced": input.batch_size = {size} leaves {fewest} samples of '
            f"data.{label} with a label of task.{task} in a step, too few for its {count} classes: "
            f"set input.batch_size to about {self._enough(count, fewest)}, or "
            f'input.sampling = "shuffle" and task.{task}.balance = "inverse"'
        )

    def _enough(self, count: int, fewest: int) -> int:
        """Return a batch size that gives `count` samples where the present one gives `fewest`."""
        size, step = self.experiment.input.batch_size, self.micro_batches
        needed = size * (count + 1) // max(1, fewest) if fewest < size else count
        return -(-needed // step) * step

    # ------------------------------------------------------------------------------ weighted

    def _weighted(self, label: str, own: np.ndarray, quota: int, name: str) -> Stream:
        seed = self.experiment.seed
        weights = self._weights(label, own)
        if weights is None:
            return ShuffledStream(own, quota, seed, name)
        drawn = weights > 0
        return WeightedStream(
            own[drawn], quota, seed, f"{name} weighted", weights=weights[drawn] / weights.max()
        )

    def _weights(self, label: str, own: np.ndarray) -> np.ndarray | None:
        """Return the weight of each sample, (n,) float; None if the dataset has no weights.

        Raises MtlError for an annotation that is no number, and for weights that are negative, not
        finite, or all 0.
        """
        column = self.experiment.input.sampling_by or ""
        where = f"input.sampling_by = {column!r}"
        try:
            weights = np.asarray(self.data.annotation(column, own))
        except MtlError as error:
            raise MtlError(f"{where}: {error}") from error
        if weights.ndim != 1 or weights.dtype.kind not in "fiub":
            raise MtlError(f"{where}: expected an annotation with one number for each sample")
        if np.isnan(weights).all():
            return None
        bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
        if len(bad):
            keys = self.data.keys(own[bad[:SHOWN]]).tolist()
            shown = [f"{key} ({weights[at]:g})" for key, at in zip(keys, bad)]
            raise MtlError(
                f"{where}: {len(bad)} training samples of data.{label} have a weight that is not "
                f"a number of at least 0: {', '.join(shown)}"
            )
        if not weights.any():
            raise MtlError(f"{where}: the weights of all training samples of data.{label} are 0")
        return weights.astype(np.float64)
