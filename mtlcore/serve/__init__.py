"""A trained run as a service on HTTP: a web page and JSON endpoints.

    app = create_app(run.predictor(), metadata_of(run))

`app` is an ASGI application: `mtl serve` runs it with uvicorn; any other ASGI server can. It needs
the extra `serve`.
"""

from __future__ import annotations

from ..errors import MtlError

try:
    import fastapi as _fastapi  # noqa: F401
    import markdown_it as _markdown_it  # noqa: F401
    import python_multipart as _python_multipart  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as error:
    raise MtlError(f"mtl serve needs {error.name}: type `pip install 'mtlcore[serve]'`") from error

from .app import create_app as create_app
from .limits import Limits as Limits
from .metadata import metadata_of as metadata_of
from .server import serve as serve

__all__ = ["Limits", "create_app", "metadata_of", "serve"]
