"""`mtl serve`: serve a run as a web page and as JSON endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ._options import PluginFiles


def serve(
    run: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    detector: str | None = None,
    checkpoint: Literal["last", "best"] = "last",
    max_bytes: int = 20_000_000,
    max_images: int = 16,
    max_pixels: int = 50_000_000,
    max_requests: int = 64,
    plugin: PluginFiles = (),
) -> int:
    """Serve RUN on this machine: a web page, and POST /predict for programs.

    Ctrl-C stops it after the current requests. docs/serve.md describes the endpoints.

    Parameters
    ----------
    run
        The run folder, or a folder that `mtl package` wrote.
    host
        The address to listen on; 0.0.0.0 lets everybody in the network connect.
    port
        The port; 0 lets the system choose a free one.
    device
        The device, such as cpu or cuda:1; default: a GPU if there is one.
    detector
        Finds the regions to predict, such as `faces`; default: the whole image.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    max_bytes
        The maximum number of bytes in one request.
    max_images
        The maximum number of images in one request.
    max_pixels
        The maximum number of pixels (width x height) of one image.
    max_requests
        The maximum number of requests at the same time; others get status 503, and can try again.
    plugin
        Load a one-file plugin, of the detector or of a package. Repeatable.
    """
    from ..deployment.package import is_package, package_metadata
    from ..run import Run
    from ..serve import Limits, create_app, metadata_of
    from ..serve import serve as serve_app
    from ..serve.server import is_loopback
    from ._predictor import detector_named, open_predictor
    from ._shared import print_line

    limits = Limits(max_bytes, max_images, max_pixels, max_requests)
    predictor = open_predictor(
        run,
        detector=detector_named(detector, run, plugin),
        plugins=plugin,
        checkpoint=checkpoint,
        device=device,
    )
    origin = package_metadata(run) if is_package(run) else metadata_of(Run(run), checkpoint)
    app = create_app(predictor, origin, limits)
    if not is_loopback(host):
        print_line(
            f"warning: everybody who can reach {host} can use this model, without a password; "
            "read docs/responsible-use.md first"
        )
    serve_app(app, host, port, lambda url: print_line(f"serving {run} at {url}  (stop: Ctrl-C)"))
    return 0
