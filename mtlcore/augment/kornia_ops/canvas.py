"""Apply drawn operations of kornia to a batch of images, while labels can follow.

Neighbors that move pixels by affine matrices become ONE warp: their matrices are multiplied, and
the product also scales the raw images to the size of views. kornia interpolates once for each of
them.

Shapes: B samples, (H0, W0) pixels of raw images, (h, w) pixels of views.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve, frozen
from torch import Tensor

from ...contracts import View
from ...errors import MtlError
from ...geometry import Geometry, Size, warp
from ...rng import to_device
from .catalog import PADDINGS, KorniaOp
from .drawn import Drawn
from .movement import (
    Displaced,
    Params,
    applied,
    elastic,
    is_affine,
    is_affine_class,
    matrix_of,
    perspective,
)

WHITE = 255.0


@frozen
class Sampling:
    """How a warp reads pixels. None: the operation reads none outside, or between pixels.

    mode: "bilinear", "nearest" or "bicubic". padding: "zeros", "border" or "reflection".
    """

    mode: str | None = None
    padding: str | None = None

    def fits(self, other: Sampling) -> bool:
        """Return whether one warp can do both."""
        pairs = ((self.mode, other.mode), (self.padding, other.padding))
        return all(one is None or two is None or one == two for one, two in pairs)

    def with_other(self, other: Sampling) -> Sampling:
        """Return the sampling of one warp for both."""
        return Sampling(self.mode or other.mode, self.padding or other.padding)


class Canvas:
    """The images of one view while operations are applied.

    The warps of affine operations are delayed: `view` does the last of them.
    """

    def __init__(self, raw: Tensor, size: Size) -> None:
        self.size = size
        self.device = raw.device
        self.frame: Size = (raw.shape[-2], raw.shape[-1])
        self._raw: Tensor | None = raw
        self._view = View(raw, Geometry.identity(raw))
        self._matrix: Tensor | None = None  # (B, 3, 3) on the CPU, of the delayed warp
        self._sampling = Sampling()

    @property
    def samples(self) -> int:
        return len(self._view.images)

    def view(self) -> View:
        """Return the view: float images (B, 3, h, w) in [0, 1], after all delayed warps."""
        if self._matrix is not None or self.frame != self.size:
            self._warp()
        elif self._raw is not None:
            self._view = self._view.repaint(self._raw.float().div_(WHITE))
            self._raw = None
        return self._view

    def frame_of(self, op: KorniaOp) -> Size:
        """Return (h, w) of the images that an operation receives.

        Affine ones see the images before a delayed warp that they can join, all others those of the
        view's size. It is decided here, before their parameters are drawn for that size.
        """
        if self.frame != self.size and not self._can_delay(op):
            self.view()
        return self.frame

    def _can_delay(self, op: KorniaOp) -> bool:
        if not is_affine_class(op.cls):
            return False
        sampling = _sampling(op.module(self.size))
        return sampling is not None and self._sampling.fits(sampling)

    def apply(self, drawn: Drawn) -> None:
        """Apply one operation."""
        sampling = _sampling(drawn.module) if is_affine(drawn.module) else None
        if sampling is not None:
            self._delay(drawn, sampling)
        elif _moves(drawn.module):
            self._displace(drawn)
        else:
            view = self.view()
            self._view = view.repaint(repainted(drawn, view.images))

    def _delay(self, drawn: Drawn, sampling: Sampling) -> None:
        """Multiply the matrix of an affine operation to that of the delayed warp."""
        if not self._sampling.fits(sampling):
            self.view()
        matrix = matrix_of(drawn.module, drawn.params, self.samples, self.frame)
        self._matrix = matrix if self._matrix is None else matrix @ self._matrix
        self._sampling = self._sampling.with_other(sampling)
        self.frame = _new_frame(drawn, self.frame)

    def _warp(self) -> None:
        """Do the delayed warp, and scale to the size of views."""
        sampling, size = self._sampling, self.size
        zoom_x, zoom_y = size[1] / self.frame[1], size[0] / self.frame[0]
        scaling = torch.diag(torch.tensor([zoom_x, zoom_y, 1.0])).expand(self.samples, 3, 3)
        total = scaling if self._matrix is None else scaling @ self._matrix
        matrix = to_device(total.contiguous(), self.device)
        padding = sampling.padding or "reflection"

        def step(maps: Tensor, mode: str) -> Tensor:
            return warp(matrix, size, maps, mode, padding)

        images = step(self._view.images.float(), sampling.mode or "bilinear")
        if self._raw is not None:
            images = images.div_(WHITE)
        if sampling.mode == "bicubic":
            images = images.clamp_(0.0, 1.0)
        self._move(images, Geometry(matrix, (step,), empty=padding == "zeros"))
        self._raw = None
        self._matrix, self._sampling, self.frame = None, Sampling(), size

    def _displace(self, drawn: Drawn) -> None:
        """Let kornia move the pixels, and labels follow where it moved them."""
        view = self.view()
        images = repainted(drawn, view.images)
        module, params = drawn.module, _pinned(drawn.params, self.device)
        step = Displaced(lambda maps: _moved_bilinear(module, params, maps), self.size)
        if _has_matrix(module):
            homography = matrix_of(module, drawn.params, self.samples, self.size)
            geometry = perspective(homography, self.size, step, self.device)
        else:
            geometry = elastic(step, to_device(applied(drawn.params), self.device))
        self._move(images, geometry)

    def _move(self, images: Tensor, step: Geometry) -> None:
        """Set the images after one more movement of their pixels."""
        before = self._view.geometry
        assert before is not None
        self._view = evolve(self._view, images=images, geometry=before.then(step))


def repainted(drawn: Drawn, images: Tensor) -> Tensor:
    """Return images (B, 3, h, w) in [0, 1] after one operation of kornia, clipped to [0, 1]."""
    module, params = drawn.module, _pinned(drawn.params, images.device)
    result: Tensor = module(images, params=params)
    if result.shape != images.shape:
        raise MtlError(
            f"{type(module).__name__} of kornia changes images of {tuple(images.shape)} to "
            f"{tuple(result.shape)}; expected the same shape"
        )
    shares_memory = result.untyped_storage().data_ptr() == images.untyped_storage().data_ptr()
    return result.clamp(0.0, 1.0) if shares_memory else result.clamp_(0.0, 1.0)


def _pinned(params: Params, device: torch.device) -> Params:
    """Return parameters that kornia can copy to a GPU without waiting for it."""
    if device.type != "cuda":
        return params
    pinned = {}
    for name, value in params.items():
        pinned[name] = value.pin_memory() if isinstance(value, Tensor) else value
    return pinned


def _moved_bilinear(module: Any, params: Params, maps: Tensor) -> Tensor:
    """Move float maps as the operation moves images. Places outside are 0 for "fill", too."""
    from kornia.constants import Resample, SamplePadding

    changes: dict[str, Any] = {"resample": Resample.BILINEAR}
    if module.flags.get("padding_mode") is SamplePadding.FILL:
        changes["padding_mode"] = SamplePadding.ZEROS
    with torch.no_grad():
        moved: Tensor = module(maps, params=params, **changes)
    return moved


def _sampling(module: Any) -> Sampling | None:
    """Return how an affine operation samples. None if a warp of ours can't do it."""
    flags = module.flags
    mode = flags["resample"].name.lower() if "resample" in flags else None
    name = type(module).__name__
    if name in ("RandomHorizontalFlip", "RandomVerticalFlip", "RandomResizedCrop", "CenterCrop"):
        return Sampling(mode)
    if name in ("RandomRotation", "RandomRotation90"):
        return Sampling(mode, "zeros")
    if name in ("RandomCrop", "PadTo"):
        return Sampling(mode, PADDINGS[flags.get("padding_mode", flags.get("pad_mode"))])
    padding = flags["padding_mode"].name.lower()
    return None if padding == "fill" else Sampling(mode, padding)


def _new_frame(drawn: Drawn, frame: Size) -> Size:
    """Return the size of the images after an affine operation."""
    size = drawn.module.flags.get("size")
    # Crops are applied to all samples, or to none.
    if size is None or not bool(applied(drawn.params).any()):
        return frame
    if isinstance(size, int):
        return (size, size)
    if not drawn.module.flags.get("crop_if_exceeds", True):
        return (max(size[0], frame[0]), max(size[1], frame[1]))
    return (size[0], size[1])


def _moves(module: object) -> bool:
    from kornia.augmentation import IntensityAugmentationBase2D

    return not isinstance(module, IntensityAugmentationBase2D)


def _has_matrix(module: object) -> bool:
    from kornia.augmentation import GeometricAugmentationBase2D

    return isinstance(module, GeometricAugmentationBase2D)
