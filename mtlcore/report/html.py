"""A page as one HTML file without a network: template, style sheet and images inside."""

from __future__ import annotations

import base64
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage
from torch import Tensor

from ..errors import MtlError
from ..files import is_folder, write_atomically, write_errors_as_mtl_error
from .blocks import Page

ENDINGS = (".html", ".htm")
JPEG_QUALITY = 88


def require_html(file: Path) -> None:
    """Raise MtlError where no report can be written to this file. Called before any work."""
    if is_folder(file):
        raise MtlError(f"can't write {file}: it is a folder")
    if file.suffix.lower() not in ENDINGS:
        raise MtlError(f"--out {file}: expected an HTML file, such as {file.with_suffix('.html')}")
    if not is_folder(file.parent):
        raise MtlError(f"can't write {file}: {file.parent} is not a folder")
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        needs = " and ".join(missing)
        raise MtlError(f"a report needs {needs}: type `pip install 'mtlcore[report]'`")


def write_page(page: Page, file: Path) -> None:
    """Write a page. Raises MtlError where that fails, and then leaves nothing."""
    text = rendered(page)
    with write_errors_as_mtl_error(file):
        # Names of files may be no text: "\\udce9" stands for a byte that is not UTF-8.
        write_atomically(file, text.encode(errors="backslashreplace"))


def rendered(page: Page) -> str:
    """Return the page as HTML. All texts are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mtlcore.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)


def data_url(image: Tensor | np.ndarray, lossless: bool = False) -> str:
    """An image as a data URL: (3, H, W) float in [0, 1], or (H, W, 3) uint8.

    lossless: PNG, for text and drawings; otherwise JPEG.
    """
    pixels = image
    if isinstance(pixels, Tensor):
        pixels = (pixels.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
        pixels = pixels.permute(1, 2, 0).contiguous().numpy(force=True)
    buffer = io.BytesIO()
    picked, kind = ("PNG", "png") if lossless else ("JPEG", "jpeg")
    PillowImage.fromarray(pixels).save(buffer, picked, quality=JPEG_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
