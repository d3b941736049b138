"""A transform becomes a pretext task: which of these transforms was applied?

    clean view (B, 3, H, W)  ->  each image by its own choice  ->  pooled features  ->  K logits, cross-entropy

Rotation (Gidaris et al. 2018, arXiv:1803.07728), written so:

    def turned(images, choice):
        return images.rot90(choice, (-2, -1))

    def matrix(choice, side):  # old -> new place of a pixel
        identity, quarter = ((1, 0, 0), (0, 1, 0)), ((0, 1, 0), (-1, 0, side))
        return (identity, quarter, ((-1, 0, side), (0, -1, side)), ((0, -1, side), (1, 0, 0)))[choice]

    Rotation = predict_transform(turned, 4, name="rotation", moves=matrix)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from ..contracts import AugmentedBatch, BuildContext, Features, Head, PretextTask, View
from ..errors import MtlError
from ..rng import Rng
from ..tasks.draw_text import written

Transform = Callable[[Tensor, int], Tensor]
Matrix = Callable[[int, int], Sequence[Sequence[float]]]


def predict_transform(
    fn: Transform,
    choices: int | Sequence[str],
    *,
    name: str,
    moves: Matrix | bool = True,
    cites: str = "original",
) -> type[PretextTask]:
    """The class of a pretext task `name`, to be given by `mtl_components`: K-way, one random choice an image.

    fn: (images (B, C, H, W) float, choice) -> images of the same shape; deterministic, each image by itself, any number of
    channels; choice is an int in [0, K). choices: K, or a name for each. cites: where the idea comes from.
    moves: what becomes of the labels.
    - False: only colors change, all labels hold (`View.repaint`).
    - A function (choice, side in pixels) -> the 2 x 3 or 3 x 3 matrix, old -> new pixel coordinates (x to the right, y down, (0, 0)
      the outer corner of the first pixel): masks follow `fn`, rigid labels the matrix (`View.rearrange(move, matrix)`).
    - True: no label is known to hold, so no supervised head reads the views (`View(images)`). For parts that change places while
      rigid labels hold, write a class whose `views` calls `View.rearrange(move)`.
    To be pickled, the class must be assigned to a variable of its own name: `LocalBlur` for "local_blur".
    Raises MtlError where there is no choice, or a name stands twice.
    """
    names = tuple(map(str, range(choices))) if isinstance(choices, int) else tuple(choices)
    if len(names) < 2 or len(set(names)) != len(names):
        raise MtlError(
            f"predict_transform(name={name!r}): choices = {choices!r}; expected at least two, all different"
        )
    title = "".join(word.capitalize() for word in name.split("_"))
    body = {
        "__module__": sys._getframe(1).f_globals.get("__name__", __name__),
        "__qualname__": title,
        "__doc__": f"Which of {len(names)} transforms was applied: {', '.join(names)}?",
        "name": name,
        "cites": cites,
        "question": _Question(fn, names, moves),
    }
    made: type[PretextTask] = frozen(type(title, (_PredictTransform,), body))
    return made


@frozen
class _Question:
    """What `predict_transform` was asked for."""

    fn: Transform
    names: tuple[str, ...]
    moves: Matrix | bool

    def matrices(self, side: int) -> Tensor:
        """(K, 3, 3) old -> new, on the CPU."""
        assert callable(self.moves)
        samples = [[*self.moves(k, side), (0, 0, 1)][:3] for k in range(len(self.names))]
        return torch.tensor(samples, dtype=torch.float32)


@frozen
class _PredictTransform(PretextTask):
    """What all of them share; `predict_transform` fills `question`."""

    question: ClassVar[_Question]

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[list[View], Tensor]:
        """The clean view, each image transformed by its own choice; (B,) int64 choices."""
        clean, ask = batch.clean, self.question
        choice = rng.randint(len(ask.names), len(clean.images))
        move = partial(applied, ask.fn, len(ask.names), choice)
        if callable(ask.moves):
            matrices = ask.matrices(clean.images.shape[-1]).to(choice.device, non_blocking=True)
            return [clean.rearrange(move, matrices[choice])], choice
        if ask.moves:
            return [View(move(clean.images), augmentation=clean.augmentation)], choice
        return [clean.repaint(move(clean.images))], choice

    def build(self, context: BuildContext) -> Head:
        return TransformHead(context.info.dim, len(self.question.names))

    def metrics(self) -> dict[str, Any]:
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(len(self.question.names), average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The views, with the choice that was made, and the one that the head names."""
        names, said = self.question.names, zip(images, target.tolist(), output.argmax(1).tolist())
        return torch.stack(
            [written(x, names[asked], f"> {names[answer]}") for x, asked, answer in said]
        )


class TransformHead(Head):
    """One linear layer: (B, D) -> (B, K) logits."""

    def __init__(self, dim: int, choices: int) -> None:
        super().__init__()
        self.answer, self.choices = nn.Linear(dim, choices), choices

    def forward(self, features: Features) -> Tensor:
        return self.answer(features.pooled)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """Logits that are sure of the right choice."""
        return 20.0 * F.one_hot(target, self.choices).float()


def applied(fn: Transform, number: int, choice: Tensor, maps: Tensor) -> Tensor:
    """Each sample of `maps` (B, C, H, W) by its own choice (B,): every choice is computed for all samples, so nothing is read back."""
    result = maps
    for k in range(number):
        made = fn(maps, k)
        if made.shape != maps.shape:
            what = getattr(fn, "__name__", "the transform")
            raise MtlError(
                f"{what} makes {tuple(made.shape)} of {tuple(maps.shape)}: expected the same shape"
            )
        result = torch.where((choice == k).view(-1, 1, 1, 1), made, result)
    return result
