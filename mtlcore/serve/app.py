"""The ASGI application: the endpoints, and how every error becomes an answer with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from attrs import asdict
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as AnyHttpException

from .. import __version__
from ..files import finite
from ..prediction.predictor import Predictor
from ..prediction.results import Prediction
from .limits import Limits, RequestSlots
from .metadata import Metadata, metadata_of_predictor
from .responsible_use import responsible_use_page
from .uploads import MULTIPART, Upload, uploads_of
from .worker import Answered, Worker

HERE = Path(__file__).resolve().parent

# The page loads nothing from the internet, and no other page may embed it.
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
    " img-src 'self' blob: data:; media-src blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class Reason(BaseModel):
    """An error."""

    error: str = Field(description="What is wrong, and what is expected.")


class OnePrediction(BaseModel):
    """The prediction for one image, or for one region that a detector found in it."""

    image: int = Field(description="Number of the image in the request, from 0.")
    file: str = Field(description="Name of the uploaded file.")
    box: tuple[float, float, float, float] | None = Field(
        description="Left, top, right, bottom of the region in pixels of the upright image."
    )
    score: float | None = Field(description="Of the detector, in [0, 1].")
    answers: dict[str, dict[str, Any]] = Field(
        description="Task label -> answer, in words and real units. Empty if there is an error."
    )
    error: str = Field(description='Why there is no answer; "" if there is one.')


class Predictions(BaseModel):
    """The answer to one request."""

    predictions: list[OnePrediction]
    milliseconds: float = Field(description="From the end of the upload to the answer.")


class Health(BaseModel):
    """The state of the service."""

    status: str
    requests: int = Field(description="Requests that are being read, wait, or are computed.")


UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            MULTIPART: {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "JPEG, PNG, BMP, GIF, TIFF, WEBP or PPM files.",
                        }
                    },
                }
            }
        },
    }
}
REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Reason, "description": "No image, too many images, or a broken body"},
    408: {"model": Reason, "description": "The body did not arrive in time"},
    413: {"model": Reason, "description": "The body is too large"},
    415: {"model": Reason, "description": f"The body is not {MULTIPART}"},
    422: {"model": Reason, "description": "No file is a readable image"},
    503: {"model": Reason, "description": "Busy: try again after the seconds of `Retry-After`"},
}


def create_app(
    predictor: Predictor, origin: Metadata | None = None, limits: Limits | None = None
) -> FastAPI:
    """Return the ASGI application that answers with a predictor: `POST /predict` and a web page.

    origin: where the model comes from, for `/metadata`, as `metadata_of(run)` returns it.
    limits: of requests (default: those of `Limits()`).

    One process serves it, with one thread that predicts. The answers are those of the predictor.
    Raises MtlError if its detector can't be loaded.
    """
    # Load the detector and predict once: a service that starts can then answer at once.
    _ = predictor.detect, predictor.columns()
    worker, bounds = Worker(predictor), limits or Limits()
    slots = RequestSlots(bounds.max_requests)
    known = finite({**(origin or {}), **metadata_of_predictor(predictor), "limits": asdict(bounds)})
    app = _empty_app(worker)

    @app.post("/predict", response_model=Predictions, responses=REFUSED, openapi_extra=UPLOAD)
    async def predict(request: Request) -> JSONResponse:
        """Predict one or more images."""
        with slots.take():
            async with uploads_of(request, bounds) as uploads:
                start = perf_counter()
                answered = await asyncio.wrap_future(worker.submit(uploads))
        _refuse_unreadable(uploads)
        milliseconds = round((perf_counter() - start) * 1000, 3)
        content = {"predictions": _rows(answered), "milliseconds": milliseconds}
        return JSONResponse(finite(content), headers=HEADERS)

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> JSONResponse:
        """Say whether the service can predict."""
        status, code = ("ok", 200) if worker.is_alive else ("stopped", 503)
        return JSONResponse({"status": status, "requests": slots.taken}, code)

    @app.get("/metadata")
    async def metadata() -> dict[str, Any]:
        """Return the tasks and their classes, the preprocessing, versions, and limits."""
        return known

    _add_pages(app)
    return app


def _empty_app(worker: Worker) -> FastAPI:
    """An application without endpoints. It runs the worker, and gives each error a reason."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="mtl serve",
        version=__version__,
        description="Predictions of a trained run. Read /responsible-use first.",
        lifespan=lifespan,
        # Their pages load scripts from the internet. /openapi.json remains.
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(AnyHttpException, _refusal)
    app.add_exception_handler(Exception, _failure)
    return app


def _add_pages(app: FastAPI) -> None:
    page = (HERE / "page.html").read_text(encoding="utf-8")
    notes = responsible_use_page()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS | {"Content-Security-Policy": PAGE_POLICY})

    @app.get("/responsible-use", response_class=HTMLResponse, include_in_schema=False)
    async def use() -> HTMLResponse:
        return HTMLResponse(notes, headers=HEADERS | {"Content-Security-Policy": PAGE_POLICY})


def _refuse_unreadable(uploads: list[Upload]) -> None:
    """Answer 422 if no file of a request is a readable image."""
    if all(upload.error for upload in uploads):
        raise HTTPException(422, "; ".join(upload.error for upload in uploads))


def _rows(answered: Answered) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for image, predictions in enumerate(answered):
        rows += [{"image": image, **_row(prediction)} for prediction in predictions]
    return rows


def _row(prediction: Prediction) -> Mapping[str, object]:
    """One prediction as data, without the frame of a video."""
    row = prediction.as_dict()
    del row["frame"]
    return row


async def _refusal(_: Request, error: Exception) -> JSONResponse:
    """An error of the client, or of too many clients."""
    assert isinstance(error, AnyHttpException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(_: Request, error: Exception) -> JSONResponse:
    """A bug: the log of the server has its traceback, the client a sentence."""
    return JSONResponse({"error": f"the server failed ({type(error).__name__}): see its log"}, 500)
