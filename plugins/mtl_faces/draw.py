"""Draw predictions about faces on the image."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

RED = (235, 60, 50)
GREEN = (60, 200, 80)
BLUE = (70, 130, 255)
_SCALE = 4  # lines are drawn at this multiple of the size and shrunk, for smooth edges


def axes(image: Tensor, rotation: Tensor) -> Tensor:
    """Draw the axes of a head from the center of its image.

    Red points to the side of the head that is right in a frontal image, green to the chin, blue out
    of the face. Axes that point to the viewer are drawn last.

    image: (3, H, W) float in [0, 1]. rotation: (3, 3), head -> view. Returns the same shape, dtype
    and device as `image`.
    """
    height, width = image.shape[-2:]
    canvas = Image.new("RGBA", (width * _SCALE, height * _SCALE))
    pen = ImageDraw.Draw(canvas)
    length = 0.4 * _SCALE * min(width, height)
    center = (width * _SCALE / 2, height * _SCALE / 2)
    # Each column of the rotation is one axis of the head in view coordinates.
    columns = rotation.detach().float().cpu().T.tolist()
    colored = zip(columns, (RED, GREEN, BLUE))
    line_width = max(_SCALE, round(length / 10))
    for (x, y, _), color in sorted(colored, key=lambda axis: axis[0][2]):
        end = (center[0] + length * x, center[1] + length * y)
        pen.line([center, end], fill=color, width=line_width)
    return _blended(image, canvas.resize((width, height), Image.Resampling.BOX))


def _blended(image: Tensor, canvas: Image.Image) -> Tensor:
    """Blend an RGBA canvas over the image."""
    rgba = torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
    layer = rgba.to(image.device, image.dtype) / 255
    return image + layer[3:] * (layer[:3] - image)
