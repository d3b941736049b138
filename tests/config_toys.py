"""Toy components of every kind, with every type of field. Their methods do nothing."""

from __future__ import annotations

from enum import Enum
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar, Literal

from attrs import field, frozen
from attrs.validators import ge, in_

from mtlcore import (
    Augmentation,
    Dataset,
    Encoder,
    LossWeighting,
    PretextTask,
    SupervisedTask,
    hookimpl,
)
from mtlcore.optimizers import SGD, AdamW
from mtlcore.registry.catalog import Catalog


class Color(Enum):
    RED = "red"
    GREEN = "green"


@frozen
class Box:
    low: float = 0.0
    high: float = 1.0


@frozen
class ResnetSmall(Encoder):
    width: int = field(default=16, validator=ge(1))
    depths: tuple[int, ...] = (2, 2)
    norm: Literal["batch", "none"] = "batch"

    def build(self, size):
        raise NotImplementedError


@frozen
class Hub(Encoder):
    family = True
    model: str
    weights: Path | None = None

    def build(self, size):
        raise NotImplementedError


@frozen
class Faces(SupervisedTask):
    reads: str = ""
    classes: tuple[str, ...] = ()
    count: Literal[7, 8] = 8
    smoothing: float = field(default=0.0, validator=ge(0.0))
    color: Color = Color.RED

    def target(self, annotation):
        raise NotImplementedError

    def build(self, context):
        raise NotImplementedError


@frozen
class Pose(Faces):
    reads: str = "pose_deg"


@frozen
class Puzzling(PretextTask):
    grid: int = field(default=3, validator=in_((2, 3, 4)))
    scales: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    rotate: bool = False
    seed: int | None = None
    tag: str | float = "a"

    def __attrs_post_init__(self) -> None:
        if self.rotate and self.grid == 4:
            raise ValueError("a grid of 4 can't rotate")

    def views(self, batch, rng):
        raise NotImplementedError

    def build(self, context):
        raise NotImplementedError


@frozen
class Folder(Dataset):
    root: Path
    columns: dict[str, str] = field(factory=dict)
    suffixes: frozenset[str] = frozenset()

    def index(self):
        raise NotImplementedError

    def decode(self, index, sample):
        raise NotImplementedError


@frozen
class Equal(LossWeighting):
    def build(self, names):
        raise NotImplementedError


@frozen
class Strong(Augmentation):
    box: Box = Box()
    turn_deg: float = 20.0

    def view(self, images, size, rng):
        raise NotImplementedError


@frozen
class Validation(Strong):
    lacks: ClassVar = {"random": "evaluation looks at each image in the same way"}


@frozen
class Styled(Strong):
    """It has a required key, so it is not available without a table."""

    style: Path = field(kw_only=True)


TOYS = [
    ResnetSmall,
    Hub,
    Faces,
    Pose,
    Puzzling,
    Folder,
    Equal,
    AdamW,
    SGD,
    Strong,
    Validation,
    Styled,
]


@hookimpl
def mtl_components():
    return TOYS


def toy_catalog() -> Catalog:
    return Catalog.load([EntryPoint("toys", __name__, "mtlcore")], environ={})
