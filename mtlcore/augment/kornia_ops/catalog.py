"""Every 2-D operation of kornia as a frozen attrs class, read from kornia itself.

The fields of a class are the arguments of kornia's constructor, with kornia's defaults. kornia
checks their ranges when an operation is built.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from ...config.variants import Variant
from ...errors import nearest
from ...geometry import Size
from .fields import Argument, arguments

if TYPE_CHECKING:
    from torch import nn

Moves = Literal["matrix", "dense only", "not"]
"""How labels follow an operation. "not": pixels stay in their places."""

POLICIES = ("AutoAugment", "RandAugment", "TrivialAugment")

REFUSED = {
    "Denormalize": "views are in [0, 1], and the encoder normalizes them",
    "Normalize": "views are in [0, 1], and the encoder normalizes them",
    "LongestMaxSize": "the size of views is input.size",
    "SmallestMaxSize": "the size of views is input.size",
    "Resize": "the size of views is input.size",
    "PatchMix": "no label follows it: use RandomCutMixV2",
    "RandomDissolving": "it downloads a network, and draws while it is applied",
    "RandomJigsaw": "it is a pretext, not an augmentation: use [pretext.puzzling]",
    "RandomMosaic": "it mixes four images, and a view has two: use RandomCutMixV2",
    "RandomTransplantation": "it needs masks as an input: use RandomCutMixV2",
}
"""Operation -> why a view can't have it."""

MIXES = ("RandomCutMixV2", "RandomMixUpV2", "cutmix", "mixup")
"""Operations that mix each sample with another one."""

PADDINGS = {"constant": "zeros", "replicate": "border", "reflect": "reflection"}
"""kornia's words for the padding of a crop -> those of a warp."""

_FIXED = {"RandomResizedCrop": frozenset({"size"})}
"""Operation -> arguments that the run sets: the size of views."""

_BUILT = 256  # operations that stay built: more than any list, in a few threads


@attrs.frozen(kw_only=True)
class KorniaOp(Variant):
    """One operation of kornia. Its fields are its configuration.

    variant: its name in kornia.
    cls: its class in kornia.
    moves: how labels follow it.
    refused: why a view can't have it; "" if it can.
    mixes: it mixes each sample with another one.
    """

    key: ClassVar[str] = "op"
    what: ClassVar[str] = "an operation of kornia"
    cls: ClassVar[type]
    moves: ClassVar[Moves] = "not"
    refused: ClassVar[str] = ""
    mixes: ClassVar[bool] = False
    arguments: ClassVar[tuple[Argument, ...]] = ()

    @classmethod
    def variants(cls) -> Mapping[str, type[KorniaOp]]:
        """Return name -> class of every operation, also of those that are refused."""
        return catalog()

    def __attrs_post_init__(self) -> None:
        """Raise ValueError if a view can't have it, or if kornia refuses its values."""
        if self.refused:
            raise ValueError(f"a view can't have {self.variant}: {self.refused}")
        _require_padding(self)
        try:
            self.build((32, 32))
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise ValueError(f"kornia refuses it: {text}") from error

    @classmethod
    def facts(cls) -> str:
        """Return what a user must know about this operation here, in sentences."""
        if cls.refused:
            return f"A view can't have it: {cls.refused}."
        words = {
            "matrix": "Pixels move: poses and points follow its matrix, maps its pixels.",
            "dense only": "Pixels move: maps and points follow them. No matrix describes it, so "
            "poses can't follow: they are left out where it is applied.",
            "not": "Pixels stay in their places.",
        }
        return words[cls.moves]

    @property
    def in_finish(self) -> bool:
        """Whether it runs after the pretexts."""
        return bool(getattr(self, "after_pretext", False))

    def module(self, size: Size) -> nn.Module:
        """Return the operation of this thread. size: (h, w) of views, in pixels."""
        return _built(self, size, threading.get_ident())

    def build(self, size: Size) -> nn.Module:
        """Return a new module of kornia. size: (h, w) of views, in pixels."""
        import torch

        given: dict[str, Any] = {}
        for argument in self.arguments:
            value = getattr(self, argument.name)
            if argument.is_tensor and value is not None:
                value = torch.tensor(value)
            given[argument.name] = value
        if self.variant in _FIXED:
            given["size"] = size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about defaults that will change in kornia
            module: nn.Module = self.cls(**given)
        return module.requires_grad_(False)


def _require_padding(op: KorniaOp) -> None:
    """Raise ValueError for a padding of a crop that a warp can't have."""
    if op.variant not in ("RandomCrop", "PadTo"):
        return
    for name in ("padding_mode", "pad_mode"):
        padding = getattr(op, name, "constant")
        if padding not in PADDINGS:
            raise ValueError(f"{name} = {padding!r}: {nearest(padding, PADDINGS)}")
    for name in ("fill", "pad_value"):
        if getattr(op, name, 0) != 0:
            raise ValueError(f"{name} = {getattr(op, name)}: expected 0, since maps are 0 there")


@functools.lru_cache(maxsize=_BUILT)
def _built(op: KorniaOp, size: Size, _thread: int) -> nn.Module:
    # A module keeps its last parameters, so each thread has its own.
    return op.build(size)


@functools.cache
def catalog() -> Mapping[str, type[KorniaOp]]:
    """Return name -> class of every 2-D operation. It imports kornia, which takes 0.7 s."""
    import kornia.augmentation as K
    from kornia.augmentation import auto

    from .short_names import SHORT_NAMES

    found: dict[str, type[KorniaOp]] = {}
    for name in sorted([*vars(K), *POLICIES]):
        cls = getattr(auto if name in POLICIES else K, name)
        if _is_operation(name, cls):
            found[name] = _variant(name, cls)
    return found | {name: _variant(name, cls) for name, cls in SHORT_NAMES.items()}


def _is_operation(name: str, cls: object) -> bool:
    from kornia.augmentation.base import _BasicAugmentationBase

    if name in POLICIES:
        return True
    is_named = inspect.isclass(cls) and name[0].isupper() and "Base" not in name
    if not is_named or "3D" in name:
        return False
    assert isinstance(cls, type)
    return issubclass(cls, _BasicAugmentationBase)


def _variant(name: str, cls: type) -> type[KorniaOp]:
    """Return the attrs class of one operation."""
    found = arguments(cls, _FIXED.get(name, frozenset()))
    moves = _moves(name, cls)
    fields = {argument.name: argument.field() for argument in found}
    if moves == "not" and name not in MIXES and name not in REFUSED:
        fields["after_pretext"] = attrs.field(type=bool, default=False)
    body = {
        "__doc__": _summary(cls),
        "__module__": __name__,
        "variant": name,
        "cls": cls,
        "moves": moves,
        "refused": REFUSED.get(name, ""),
        "mixes": name in MIXES,
        "arguments": found,
    }
    made: type[KorniaOp] = attrs.make_class(
        name, fields, bases=(KorniaOp,), class_body=body, frozen=True, kw_only=True, slots=True
    )
    return made


def _moves(name: str, cls: type) -> Moves:
    from kornia.augmentation import GeometricAugmentationBase2D, IntensityAugmentationBase2D
    from kornia.augmentation._2d.mix.base import MixAugmentationBaseV2

    if name in POLICIES or issubclass(cls, GeometricAugmentationBase2D):
        return "matrix"
    if issubclass(cls, IntensityAugmentationBase2D | MixAugmentationBaseV2):
        return "not"
    return "dense only"


def _summary(cls: type) -> str:
    """Return the first paragraph of kornia's description."""
    text = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0]
    return " ".join(text.split())


def __getattr__(name: str) -> type[KorniaOp]:
    """Return the class of an operation, so that pickle finds it here."""
    if not name.startswith("_") and name in catalog():
        return catalog()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
