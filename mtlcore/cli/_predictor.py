"""Open a run or a package as a predictor, for `mtl predict` and `mtl serve`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import MtlError

if TYPE_CHECKING:
    from ..contracts import Detector
    from ..prediction.predictor import Predictor


def open_predictor(
    folder: Path,
    *,
    detector: Detector | None = None,
    plugins: Sequence[Path] = (),
    batch_size: int = 32,
    mirror: bool = False,
    checkpoint: Literal["last", "best"] = "last",
    device: str | None = None,
) -> Predictor:
    """Return the predictor of a run folder, or of a folder that `mtl package` wrote."""
    from ..deployment.package import is_package, load_package
    from ..run import Run

    if is_package(folder):
        if checkpoint != "last":
            raise MtlError(
                f"--checkpoint {checkpoint}: {folder} is a package, which holds one checkpoint: "
                "choose it when you write the package, with `mtl package RUN --checkpoint best`"
            )
        return load_package(
            folder,
            plugins=plugins,
            detector=detector,
            batch_size=batch_size,
            mirror=mirror,
            device=device,
        )
    return Run(folder).predictor(
        detector=detector,
        batch_size=batch_size,
        mirror=mirror,
        checkpoint=checkpoint,
        device=device,
    )


def detector_named(
    name: str | None, folder: Path, plugins: Sequence[Path] = (), /, **fields: object
) -> Detector | None:
    """Return the detector of this name, or None without a name. The plugins of the run count.

    fields: its keys. Raises MtlError for fields or plugin files without a name.
    """
    from ..deployment.package import is_package
    from ..prediction.predictor import detector_of
    from ..runs import RunFolder

    if name is None:
        if fields or (plugins and not is_package(folder)):
            option = "--set" if fields else "--plugin"
            raise MtlError(f"{option} is for a detector, but there is none: add --detector NAME")
        return None
    run = None if is_package(folder) else RunFolder.open(folder)
    return detector_of(name, run, plugins, **fields)
