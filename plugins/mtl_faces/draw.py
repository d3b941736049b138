"""Answers about faces, drawn on the image for a person to see."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

RED, GREEN, BLUE = (235, 60, 50), (60, 200, 80), (70, 130, 255)
_FINER = 4  # lines are drawn on a finer sheet and shrunk: smooth edges


def axes(image: Tensor, rotation: Tensor) -> Tensor:
    """(3, H, W) float in [0, 1], a rotation (3, 3) head -> view -> the image with the head's axes from its middle.

    Red points to the head's side that is on the image's right when frontal, green to its chin, blue out of the face. An axis
    that points to the viewer is drawn over those that point away. Same shape, dtype and device.
    """
    height, width = image.shape[-2:]
    sheet = Image.new("RGBA", (width * _FINER, height * _FINER))
    pen, reach = ImageDraw.Draw(sheet), 0.4 * _FINER * min(width, height)
    middle = (width * _FINER / 2, height * _FINER / 2)
    columns = sorted(
        zip(rotation.detach().float().cpu().T.tolist(), (RED, GREEN, BLUE)), key=lambda c: c[0][2]
    )
    for (x, y, _), color in columns:
        end = (middle[0] + reach * x, middle[1] + reach * y)
        pen.line([middle, end], fill=color, width=max(_FINER, round(reach / 10)))
    return _laid_over(image, sheet.resize((width, height), Image.Resampling.BOX))


def _laid_over(image: Tensor, sheet: Image.Image) -> Tensor:
    layer = torch.from_numpy(np.array(sheet)).permute(2, 0, 1).to(image.device, image.dtype) / 255
    return image + layer[3:] * (layer[:3] - image)
