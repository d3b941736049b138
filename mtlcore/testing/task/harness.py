"""A task on the harness: annotations that it can read, fitted to them, and a head on a toy encoder.

Where the task has `examples(n, rng) -> Annotation`, its annotations are those; else names and numbers of several shapes are tried,
until `fit` and `target` take some. N samples, targets (N, ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...contracts import Annotation, BuildContext, Features, Head
from ...geometry import Geometry, similarity
from ...model.inference import SharedEncoder
from ...networks import losses_in_fp32
from ...rng import KeyedRng, Rng
from ..generators import seeded
from ..kit import Skip
from ..pretext.harness import BenchEncoder
from ..reload import reload
from ..subject import Subject, patterns

FITTED = 48
"""Samples that a task is fitted on."""
SIDE = 32
"""Side of the images in pixels, where the targets are not images themselves."""
ROUNDING = 1e-5
"""Of images in [0, 1]."""
_SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (1,),
    (2,),
    (3,),
    (4,),
    (6,),
    (3, 3),
    (5, 2),
    (1, SIDE, SIDE),
)

Maker = Callable[[int, Rng], Annotation]


class TaskSubject(Subject):
    """A task on the harness. Heads are in eval mode."""

    imports = ("torchmetrics.classification", "torchmetrics.regression")

    @cached_property
    def maker(self) -> Maker:
        """What draws annotations that the task can read."""
        own: Maker | None = getattr(self.component, "examples", None)
        return own or next((make for make in _guesses() if self._takes(make)), _names)

    def in_a_new_process(self) -> TaskSubject:
        """The same task, fitted to the same, as a process finds it that has built nothing yet: its module is run afresh."""
        fitted = {f.alias: getattr(self.task, f.name) for f in attrs.fields(self.cls) if f.init}  # type: ignore[arg-type]
        other = TaskSubject(self.name, reload(self.cls), fitted, self.catalog)
        other.maker, other.task = self.maker, other.component
        return other

    def annotation(self, n: int = FITTED, seed: int = 0) -> Annotation:
        return self.maker(n, KeyedRng((seed,))("annotation"))

    @cached_property
    def task(self) -> Any:
        """The task, fitted."""
        return self.component.fit(self.annotation())

    def truth(self, n: int, seed: int = 0) -> Tensor:
        """(n, ...) targets of samples that are labeled."""
        target, present = self.task.target(self.annotation(4 * n, seed))
        found: Tensor = target[present][:n]
        return found

    @cached_property
    def side(self) -> int:
        shape = self.truth(1).shape
        return int(shape[-1]) if len(shape) == 4 else SIDE

    @cached_property
    def encoder(self) -> SharedEncoder:
        with seeded(0):
            return SharedEncoder(BenchEncoder(), self.side).eval()

    def features(self, samples: int, seed: int = 0) -> Features:
        """Of drawn images; the gradient reaches the encoder."""
        features: Features = self.encoder(patterns(samples, self.side, seed).float() / 255)
        return features

    def fixed(self, samples: int, seed: int = 0) -> Features:
        """Of drawn images, without a gradient."""
        with torch.no_grad():
            return self.features(samples, seed)

    def head(self, seed: int = 0) -> Head:
        """A new head, its initial weights from this seed."""
        with seeded(seed):
            head: Head = self.task.build(BuildContext(self.encoder.info, self.encoder, {}))
        return head.eval()

    def compute_losses(self, head: Head, output: Any, target: Tensor) -> Tensor:
        """The loss as a step takes it: in fp32, autocast off; of a coupled head with all shares 1."""
        output = tree_map(lambda x: x.float() if x.is_floating_point() else x, output)
        with losses_in_fp32("cpu"):
            loss: Tensor = head.loss(
                output, target, *([torch.ones(len(target))] if head.coupled else [])
            )
        return loss

    def scores(
        self, decoded: Tensor, target: Tensor, parts: tuple[int, ...] = ()
    ) -> dict[str, Tensor]:
        """metric -> its value, updated with these samples, at once or in parts."""
        metrics = self.task.metrics()
        sizes = list(parts) or [len(target)]
        for answer, truth in zip(decoded.split(sizes), target.split(sizes), strict=True):
            for metric in metrics.values():
                metric.update(answer, truth)
        return {name: torch.as_tensor(metric.compute()).float() for name, metric in metrics.items()}

    def movement(self, samples: int, turn_deg: float = 0.0, mirrored: bool = False) -> Geometry:
        """The image turned about its center, after a mirror."""
        return self.movements(
            torch.full((samples,), math.radians(turn_deg)), torch.full((samples,), mirrored)
        )

    def movements(self, angle_rad: Tensor, flip: Tensor) -> Geometry:
        size = (self.side, self.side)
        return Geometry.affine(
            similarity(angle_rad, torch.ones_like(angle_rad), flip, size, size), size
        )

    def _takes(self, make: Maker) -> bool:
        annotation = make(FITTED, KeyedRng((0,))("annotation"))
        try:
            target, present = self.component.fit(annotation).target(annotation)
        except Exception:  # noqa: BLE001 - it is a guess, and whatever the task says to it means no
            return False
        return isinstance(target, Tensor) and isinstance(present, Tensor) and bool(present.any())


def ideal_output(head: Any, target: Tensor) -> Any:
    """The head's perfect answer to these targets; skips where it has no word for it."""
    if not hasattr(head, "ideal"):
        raise Skip("the head has no `ideal(target) -> output`")
    return head.ideal(target)


def reads_names(annotation: Annotation) -> bool:
    return annotation.dtype.kind == "U"


def missing(annotation: Annotation) -> Annotation:
    """As many samples, all missing: "" or NaN."""
    return np.full_like(annotation, "" if reads_names(annotation) else np.nan)


def _names(n: int, rng: Rng) -> Annotation:
    return np.array(["one", "two", "three"])[rng.randint(3, n).numpy()]


def _guesses() -> Iterator[Maker]:
    yield _names
    for shape in _SHAPES:

        def numbers(n: int, rng: Rng, shape: tuple[int, ...] = shape) -> Annotation:
            return (2 * rng.rand(n, *shape) - 1).double().numpy()

        yield numbers
