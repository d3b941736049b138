"""How an image becomes the input of the encoder: one object for every use of a trained run.

image file -> upright RGB (EXIF)
    -> the largest central rectangle with the aspect ratio of `stored`, resized to it (bicubic,
       antialiased), uint8: what the image cache of training holds
    -> the augmentation "validation": its central `crop`, resized to `size` (bilinear, one warp)
    -> float in [0, 1], normalized by the encoder itself

Evaluation, prediction, export and serving all use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from attrs import frozen
from torch import Tensor

from ..augment.levels import Validation
from ..config.experiment import Experiment
from ..contracts import Augmentation, View
from ..data.images import shrink
from ..errors import MtlError
from ..geometry import inverse_affine
from ..image_size import central_box, image_size, written
from ..rng import VIEW, KeyedRng


@frozen
class Preprocess:
    """The way from an image to the input of the encoder.

    stored: (h, w) of the images in the image cache, in pixels.
    size: (h, w) of the input of the encoder, in pixels.
    augmentation: the "validation" augmentation of the run.
    seed: of an augmentation that draws. The core's `validation` does not draw.
    """

    stored: tuple[int, int]
    size: tuple[int, int]
    augmentation: Augmentation
    seed: int = 0

    @classmethod
    def of(cls, experiment: Experiment) -> Preprocess:
        """Return the preprocessing of a run, from its resolved experiment."""
        settings = experiment.input
        return cls(
            settings.cache_size or settings.size,
            settings.size,
            experiment.augmentation("validation"),
            experiment.seed,
        )

    def store(self, image: np.ndarray) -> np.ndarray:
        """Crop and resize one upright RGB image (H, W, 3) uint8, as the image cache does.

        -> (h, w, 3) uint8, h and w as in `stored`. Raises MtlError for another shape or dtype.
        """
        return shrink(image, self.stored, enlarge=True)

    def stack(self, images: Sequence[np.ndarray]) -> Tensor:
        """Stack B stored images (h, w, 3) uint8. -> (B, 3, h, w) uint8."""
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    def view(self, images: Tensor) -> View:
        """Return the view that the encoder reads, float in [0, 1].

        images: (B, 3, h, w) uint8, stored ones, on any device.
        """
        # Each batch draws the same, so a result does not depend on the order of the batches.
        rng = KeyedRng((self.seed, 0), images.device)(VIEW)
        return self.augmentation.view(images, self.size, rng)

    def in_image(self, points: Tensor, view: View, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Move points (B, K, 2) from pixels of the view to pixels of the upright images.

        view: of `view`. sizes: (H, W) of the B images that `store` read.
        """
        assert view.geometry is not None
        back = inverse_affine(view.geometry.matrix.float().cpu())
        stored = points.float().cpu() @ back[:, :2, :2].mT + back[:, None, :2, 2]
        boxes = torch.tensor([central_box(size, self.stored) for size in sizes]).float()
        top, left, height, width = boxes.unbind(1)
        scale = torch.stack([width / self.stored[1], height / self.stored[0]], 1)
        return stored * scale[:, None] + torch.stack([left, top], 1)[:, None]

    @property
    def crop(self) -> float:
        """The share of the height and width of a stored image that the encoder reads.

        Raises MtlError if the run's "validation" augmentation is not the core's.
        """
        if type(self.augmentation) is not Validation:
            raise MtlError(
                f"[augment.validation] is {type(self.augmentation).__name__}: this "
                'preprocessing can\'t be saved as data; expected name = "validation"'
            )
        return self.augmentation.crop

    def as_data(self) -> dict[str, object]:
        """Return the preprocessing as JSON-compatible data, which `from_data` reads.

        Raises MtlError if the run's "validation" augmentation is not the core's.
        """
        return {
            "color": "RGB",
            "orientation": "upright by EXIF",
            "rectangle": "largest central one with the aspect ratio of `stored`",
            "stored": written(self.stored),
            "stored_interpolation": "bicubic, antialiased",
            "crop": self.crop,
            "size": written(self.size),
            "interpolation": "bilinear",
            "range": [0.0, 1.0],
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Preprocess:
        """Return the preprocessing that `as_data` wrote. Raises MtlError if a value is missing."""
        try:
            stored, size = image_size(data["stored"]), image_size(data["size"])
            return cls(stored, size, Validation(crop=float(data["crop"])))
        except (KeyError, TypeError, ValueError) as error:
            raise MtlError(
                f"the preprocessing is not valid ({error!r}): expected `stored`, `size` and `crop`"
            ) from error
