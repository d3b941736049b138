"""What a task draws on an image, large enough to read."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..contracts import AlignedTask, SupervisedTask

TILE = 192  # pixels: the longer side of a drawing


def drawing(task: SupervisedTask, view: Tensor, decoded: Tensor) -> Tensor:
    """Return what a task draws on a view (3, h, w) in [0, 1], enlarged so that text is readable."""
    if isinstance(task, AlignedTask):  # its predictions are in the pixels of the view
        return enlarged(task.draw(view, decoded))
    return task.draw(enlarged(view), decoded)


def enlarged(image: Tensor) -> Tensor:
    """(3, h, w) -> (3, H, W), the longer side `TILE` pixels."""
    height, width = image.shape[-2:]
    scale = TILE / max(height, width)
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    bigger = F.interpolate(image[None].float(), size, mode="bicubic", antialias=True)
    return bigger[0].clamp(0, 1)
