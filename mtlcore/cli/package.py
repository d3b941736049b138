"""`mtl package`: write the model of a run as a folder to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ..files import in_shell
from ._options import Overrides


def package(
    run: Path,
    *,
    out: Path,
    checkpoint: Literal["last", "best"] = "last",
    split: str | None = None,
    set_: Overrides = (),
    license_: Annotated[str, Parameter(name="--license")] = "",
    study: Path | None = None,
    onnx: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write weights, configuration, preprocessing and a model card, in the layout of model hubs.

    Parameters
    ----------
    run
        The run folder.
    out
        The new folder.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    split
        Evaluate on this split for the card: `--split test`. Default: the validation metrics that
        the run recorded.
    set_
        Set a key for the data of `--split` and of the check of `--onnx`: `--set
        data.fer2013.root=DIR`. Repeatable.
    license_
        License of the package, for the card: `--license cc-by-nc-4.0`.
    study
        A Markdown file for the card, such as a study's table with controls and intervals.
    onnx
        Also write model.onnx, checked as `mtl export` does.
    """
    from ..callbacks.bars import Bars
    from ..errors import MtlError
    from ..run import Run
    from ._shared import print_line

    if set_ and split is None and not onnx:
        raise MtlError("--set is for --split and --onnx: add one of them, or leave out --set")
    trained = Run(run)
    evaluation = None
    if split is not None:
        with Bars() as bars:
            evaluation = trained.evaluate(
                split, overrides=set_, checkpoint=checkpoint, progress=bars.progress
            )
    trained.package(
        out,
        checkpoint=checkpoint,
        evaluation=evaluation,
        license_name=license_,
        study=study,
        onnx=onnx,
        overrides=set_,
    )
    print_line(f"package: {out}")
    print_line(f"try it: mtl predict {in_shell(out)} photo.jpg")
    return 0
