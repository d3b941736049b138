"""Uploads: from the body of a request to images. Limits are checked before memory is allocated."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import BinaryIO

import numpy as np
from attrs import define
from fastapi import HTTPException, Request
from PIL import Image
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from ..data.images import FORMATS, decode_image
from ..errors import MtlError
from .limits import Limits

MULTIPART = "multipart/form-data"
MAX_NAME = 255  # characters; longer file names are cut


@define(eq=False)
class Upload:
    """One uploaded file. The body of a request above 1 MB is on disk, not in memory.

    name: as the client gave it. error: why it is not a readable image; set by `open`.
    """

    name: str
    file: BinaryIO
    max_pixels: int
    error: str = ""

    def open(self) -> np.ndarray:
        """Decode to upright RGB (H, W, 3) uint8. Raises MtlError if that fails."""
        try:
            try:
                data = self.file.read()
            except (OSError, ValueError) as error:  # closed, since the server stops at once
                raise MtlError(f"{self.name} can't be read: {error}") from error
            refuse_large(data, self.max_pixels, self.name)
            return decode_image(data, self.name)
        except MtlError as error:
            self.error = str(error)
            raise


def refuse_large(data: bytes, max_pixels: int, name: str) -> None:
    """Raise MtlError if an image has more pixels than `max_pixels`, according to its header."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Exception:  # noqa: BLE001 (decode_image will then report what is wrong)
        return
    if width * height > max_pixels:
        raise MtlError(
            f"{name} has {width} x {height} pixels: expected at most {max_pixels} in all"
        )


@asynccontextmanager
async def uploads_of(request: Request, limits: Limits) -> AsyncIterator[list[Upload]]:
    """Read the body of a request, and yield its files. They are closed afterwards.

    Raises HTTPException with a reason:

    - 415: the body is not multipart/form-data
    - 413: it has more than `max_bytes`; checked while it arrives
    - 408: it did not arrive within `read_s`
    - 400: it is not valid, or has no file, or more than `max_images`
    """
    _require_multipart(request)
    _require_length(request, limits.max_bytes)
    bounded = Request(request.scope, _bounded(request.receive, limits.max_bytes))
    with _errors_as_answers(limits.read_s):
        async with asyncio.timeout(limits.read_s):
            form = await bounded.form(max_files=limits.max_images, max_fields=limits.max_images)
    try:
        yield _files(form, limits)
    finally:
        await form.close()


def _require_multipart(request: Request) -> None:
    found = request.headers.get("content-type", "")
    if found.split(";")[0].strip().lower() != MULTIPART:
        raise HTTPException(
            415,
            f"the body is {found or 'of no type'}: expected {MULTIPART} with one or more image "
            "files, such as: curl -F images=@face.jpg URL/predict",
        )


def _require_length(request: Request, max_bytes: int) -> None:
    """Raise HTTPException if the announced length of a body is too large, before it is read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)


def _bounded(receive: Receive, max_bytes: int) -> Receive:
    """Limit the bytes of a body while it arrives, because its length may not be announced."""
    read = 0

    async def receive_bounded() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > max_bytes:
            raise _too_large(max_bytes)
        return message

    return receive_bounded


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"the body is larger than {max_bytes} bytes: send fewer or smaller images"
    )


@contextmanager
def _errors_as_answers(read_s: float) -> Iterator[None]:
    """Convert errors of a late or invalid body to HTTPException with a reason."""
    try:
        yield
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {read_s:g} s") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client closed the connection") from error
    except (FormParserError, LookupError, ValueError) as error:  # or an unknown charset
        raise HTTPException(400, f"the body is not valid {MULTIPART}: {error}") from error


def _files(form: FormData, limits: Limits) -> list[Upload]:
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise HTTPException(
            400, "the request has no file: expected one or more image files, named `images`"
        )
    uploads: list[Upload] = []
    for number, file in enumerate(files):
        name = (file.filename or f"image {number}").encode(errors="replace").decode()
        uploads.append(Upload(name[:MAX_NAME], file.file, limits.max_pixels))
    return uploads
