"""The harness of a task: readable annotations, the fitted task, and a head on a toy encoder.

If the task has `examples(n, rng) -> Annotation`, its annotations come from there. Otherwise the
harness tries names, then numbers of several shapes, until `fit` and `target` accept some.

Shapes: N samples, targets (N, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from ...contracts import Annotation, BuildContext, Features, Head, SupervisedTask
from ...geometry import Geometry, similarity
from ...model.inference import SharedEncoder
from ...networks import losses_in_fp32
from ...rng import KeyedRng, Rng
from ..generators import seeded
from ..reload import reload
from ..requirements import Skip
from ..subject import Subject, patterns
from ..toys import ToyEncoder
from ..trees import map_floats

FITTED = 48
"""The number of samples that a task is fitted on."""
SIZE = 32
"""The image size in pixels, unless the targets are images themselves."""
SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (2,),
    (3,),
    (4,),
    (6,),
    (3, 3),
    (5, 2),
    (1, SIZE, SIZE),
)
"""Shapes of numbers that the harness tries."""

Maker = Callable[[int, Rng], Annotation]


class TaskSubject(Subject[SupervisedTask]):
    """A task in the harness. Heads are in eval mode."""

    imports = ("torchmetrics.classification", "torchmetrics.regression")

    @cached_property
    def maker(self) -> Maker:
        """The function that draws annotations which the task can read."""
        own: Maker | None = getattr(self.component, "examples", None)
        if own:
            return own
        return next(filter(self._accepts, _candidates()), _names)

    def in_a_new_process(self) -> TaskSubject:
        """The same fitted task from a reloaded module, as a new process would import it."""
        cls: Any = self.cls
        fitted = {f.alias: getattr(self.task, f.name) for f in attrs.fields(cls) if f.init}
        other = TaskSubject(self.name, reload(self.cls), fitted, self.catalog)
        other.maker = self.maker
        other.task = other.component
        return other

    def annotation(self, n: int = FITTED, seed: int = 0) -> Annotation:
        return self.maker(n, KeyedRng((seed,))("annotation"))

    @cached_property
    def task(self) -> SupervisedTask:
        """The fitted task."""
        return self.component.fit(self.annotation())

    def truth(self, n: int, seed: int = 0) -> Tensor:
        """(n, ...) targets of labeled samples."""
        # Not every annotation need be a label. Four times as many leave enough.
        target, present = self.task.target(self.annotation(4 * n, seed))
        return target[present][:n]

    @cached_property
    def size(self) -> int:
        """The image size in pixels: that of the targets if they are images."""
        shape = self.truth(1).shape
        return int(shape[-1]) if len(shape) == 4 else SIZE

    @cached_property
    def encoder(self) -> SharedEncoder:
        with seeded(0):
            return SharedEncoder(ToyEncoder(), (self.size, self.size)).eval()

    def features(self, samples: int, seed: int = 0) -> Features:
        """Features of drawn images. Gradients reach the encoder."""
        images = patterns(samples, self.size, seed).float() / 255
        features: Features = self.encoder(images)
        return features

    def detached_features(self, samples: int, seed: int = 0) -> Features:
        """The same without gradients."""
        with torch.no_grad():
            return self.features(samples, seed)

    def head(self, seed: int = 0) -> Head:
        """A new head. The seed determines its weights."""
        context = BuildContext(self.encoder.info, self.encoder, {})
        with seeded(seed):
            head = self.task.build(context)
        return head.eval()

    def loss(self, head: Head, output: Any, target: Tensor) -> Tensor:
        """The loss as a step computes it: in fp32, without autocast."""
        in_fp32 = map_floats(Tensor.float, output)
        with losses_in_fp32("cpu"):
            return bare_loss(head, in_fp32, target)

    def scores(
        self, decoded: Tensor, target: Tensor, sizes: tuple[int, ...] = ()
    ) -> dict[str, Tensor]:
        """metric -> its value for these samples.

        sizes: of the batches that update the metric (default: one batch).
        """
        metrics = self.task.metrics()
        batch_sizes = list(sizes) or [len(target)]
        updates = zip(decoded.split(batch_sizes), target.split(batch_sizes), strict=True)
        for prediction, truth in updates:
            for metric in metrics.values():
                metric.update(prediction, truth)
        return {name: torch.as_tensor(metric.compute()).float() for name, metric in metrics.items()}

    def movement(self, samples: int, turn_deg: float = 0.0, mirrored: bool = False) -> Geometry:
        """The image mirrored, then turned about its center."""
        angle_rad = torch.full((samples,), math.radians(turn_deg))
        return self.movements(angle_rad, torch.full((samples,), mirrored))

    def movements(self, angle_rad: Tensor, flip: Tensor) -> Geometry:
        """The same for an angle (B,) and a mirror (B,) of each sample."""
        size = (self.size, self.size)
        matrix = similarity(angle_rad, torch.ones_like(angle_rad), flip, size, size)
        return Geometry.affine(matrix, size)

    def _accepts(self, make: Maker) -> bool:
        annotation = make(FITTED, KeyedRng((0,))("annotation"))
        try:
            target, present = self.component.fit(annotation).target(annotation)
        except Exception:  # noqa: BLE001 - a candidate may fail in any way
            return False
        return isinstance(target, Tensor) and isinstance(present, Tensor) and bool(present.any())


def bare_loss(head: Head, output: Any, target: Tensor) -> Tensor:
    """The head's loss; a coupled head gets equal shares of 1."""
    if not head.coupled:
        return head.loss(output, target)
    coupled: Any = head
    loss: Tensor = coupled.loss(output, target, torch.ones(len(target)))
    return loss


def ideal_output(head: Any, target: Tensor) -> Any:
    """The head's perfect output for these targets; skips if the head does not define one."""
    if not hasattr(head, "ideal"):
        raise Skip("the head has no `ideal(target) -> output`")
    return head.ideal(target)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value or 1."""
    largest = wanted.float().abs().max().clamp_min(1)
    return float((found.float() - wanted.float()).abs().max() / largest)


def reads_names(annotation: Annotation) -> bool:
    return annotation.dtype.kind == "U"


def missing(annotation: Annotation) -> Annotation:
    """The same number of missing annotations: "" or NaN."""
    value = "" if reads_names(annotation) else np.nan
    return np.full_like(annotation, value)


def _names(n: int, rng: Rng) -> Annotation:
    return np.array(["one", "two", "three"])[rng.randint(3, n).numpy()]


def _numbers(n: int, rng: Rng, shape: tuple[int, ...]) -> Annotation:
    return (2 * rng.rand(n, *shape) - 1).double().numpy()


def _candidates() -> Iterator[Maker]:
    yield _names
    for shape in SHAPES:
        yield partial(_numbers, shape=shape)
