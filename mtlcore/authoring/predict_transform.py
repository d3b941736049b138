"""Turn a transform into a pretext task: predict which of K transforms was applied.

    clean view (B, 3, H, W) -> a random choice for each image -> pooled features -> K logits

The loss is the cross-entropy. Rotation (Gidaris et al. 2018, arXiv:1803.07728) is, for example:

    def turned(images, choice):
        return images.rot90(choice, (-2, -1))

    def matrix(choice, size):  # old -> new coordinates of a pixel
        if choice == 0:
            return (1, 0, 0), (0, 1, 0)
        if choice == 1:
            return (0, 1, 0), (-1, 0, size)
        if choice == 2:
            return (-1, 0, size), (0, -1, size)
        return (0, -1, size), (1, 0, 0)

    Rotation = predict_transform(turned, 4, name="rotation", moves=matrix)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from ..contracts import AugmentedBatch, BuildContext, Features, Head, PretextTask, View
from ..errors import MtlError
from ..rng import Rng
from ..tasks.draw_text import draw_text

if TYPE_CHECKING:
    from torchmetrics import Metric

Transform = Callable[[Tensor, int], Tensor]
"""(images (B, C, H, W), choice) -> images of the same shape."""
Matrix = Callable[[int, int], Sequence[Sequence[float]]]
"""(choice, image size in pixels) -> 2 x 3 or 3 x 3 matrix, old -> new pixel coordinates."""


def predict_transform(
    fn: Transform,
    choices: int | Sequence[str],
    *,
    name: str,
    moves: Matrix | bool = True,
    cites: str = "original",
) -> type[PretextTask]:
    """Return the class of a pretext task `name`, for `mtl_components`. Each image gets one of K.

    fn: (images (B, C, H, W) float, choice in [0, K)) -> images of the same shape. It is
    deterministic, treats images independently, and accepts any number of channels.
    choices: K, or a name for each choice.
    cites: the source of the idea.
    moves: what happens to labels.

    - False: only colors change, so all labels stay (`View.repaint`).
    - A function (choice, size in pixels) -> matrix, 2 x 3 or 3 x 3, old -> new pixel coordinates
      (x to the right, y down, (0, 0) the outer corner of the first pixel). Masks follow `fn`, rigid
      labels follow the matrix (`View.rearrange(move, matrix)`). Images must be square.
    - True: labels are unknown, so no supervised head reads the views (`View(images)`). If parts
      change places and rigid labels stay, write a class whose `views` calls `View.rearrange(move)`.

    The class can be pickled if it is assigned to a variable of its own name: `LocalBlur` for
    "local_blur".
    Raises MtlError if there are fewer than two choices, or duplicate names.
    """
    names = tuple(map(str, range(choices))) if isinstance(choices, int) else tuple(choices)
    if len(names) < 2 or len(set(names)) != len(names):
        raise MtlError(
            f"predict_transform(name={name!r}): choices = {choices!r}; "
            "expected at least two, without duplicates"
        )
    title = "".join(word.capitalize() for word in name.split("_"))
    caller = sys._getframe(1).f_globals.get("__name__", __name__)
    body = {
        "__module__": caller,  # where pickle looks for the class
        "__qualname__": title,
        "__doc__": f"Which of {len(names)} transforms was applied: {', '.join(names)}?",
        "name": name,
        "cites": cites,
        "transforms": _Transforms(fn, names, moves),
    }
    made: type[PretextTask] = frozen(type(title, (_PredictTransform,), body))
    return made


@frozen
class _Transforms:
    """The arguments of `predict_transform`."""

    fn: Transform
    names: tuple[str, ...]
    moves: Matrix | bool

    def matrices(self, size: int) -> Tensor:
        """(K, 3, 3) old -> new pixel coordinates, on the CPU."""
        assert callable(self.moves)
        rows = []
        for choice in range(len(self.names)):
            matrix = [*self.moves(choice, size), (0, 0, 1)]
            rows.append(matrix[:3])  # the function may return the last row too
        return torch.tensor(rows, dtype=torch.float32)


@frozen
class _PredictTransform(PretextTask):
    """The base class. `predict_transform` sets `transforms`."""

    transforms: ClassVar[_Transforms]

    def views(self, batch: AugmentedBatch, rng: Rng) -> tuple[list[View], Tensor]:
        """The clean view, each image transformed by its own choice; (B,) int64 choices."""
        clean, transforms = batch.clean, self.transforms
        number = len(transforms.names)
        choice = rng.randint(number, len(clean.images))
        move = partial(apply_choices, transforms.fn, number, choice)

        if callable(transforms.moves):
            height, width = clean.images.shape[-2:]
            if height != width:
                raise MtlError(
                    f"{self.name}: `moves` describes transforms of square images, got a height of "
                    f"{height} and a width of {width}: set input.size = {max(height, width)}"
                )
            matrices = transforms.matrices(width)
            on_device = matrices.to(choice.device, non_blocking=True)
            return [clean.rearrange(move, on_device[choice])], choice
        if transforms.moves:
            return [View(move(clean.images), augmentation=clean.augmentation)], choice
        return [clean.repaint(move(clean.images))], choice

    def build(self, context: BuildContext) -> Head:
        return TransformHead(context.info.dim, len(self.transforms.names))

    def metrics(self) -> dict[str, Metric]:
        from torchmetrics.classification import MulticlassAccuracy

        return {"accuracy": MulticlassAccuracy(len(self.transforms.names), average="micro")}

    def draw(self, images: Tensor, target: Tensor, output: Tensor) -> Tensor:
        """The views with the names of the applied and of the predicted transform."""
        names = self.transforms.names
        drawn = []
        for image, applied, predicted in zip(images, target.tolist(), output.argmax(1).tolist()):
            drawn.append(draw_text(image, names[applied], f"> {names[predicted]}"))
        return torch.stack(drawn)


class TransformHead(Head):
    """One linear layer: (B, D) -> (B, K) logits."""

    def __init__(self, dim: int, choices: int) -> None:
        super().__init__()
        self.answer = nn.Linear(dim, choices)
        self.choices = choices

    def forward(self, features: Features) -> Tensor:
        logits: Tensor = self.answer(features.pooled)
        return logits

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target: Tensor) -> Tensor:
        """Confident logits of the right choice."""
        return 20.0 * F.one_hot(target, self.choices).float()


def apply_choices(fn: Transform, number: int, choice: Tensor, maps: Tensor) -> Tensor:
    """Transform each sample of `maps` (B, C, H, W) by its own choice (B,).

    All choices are computed for all samples, so that the host reads nothing from the device.
    """
    result = maps
    for k in range(number):
        transformed = fn(maps, k)
        if transformed.shape != maps.shape:
            name = getattr(fn, "__name__", "the transform")
            raise MtlError(
                f"{name} returns the shape {tuple(transformed.shape)} for {tuple(maps.shape)}; "
                "expected the same shape"
            )
        result = torch.where((choice == k).view(-1, 1, 1, 1), transformed, result)
    return result
