"""`mtl export`: write a run as one file that needs no mtlcore."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ._options import Overrides


def export(
    run: Path,
    *,
    out: Path,
    format: Literal["onnx", "torch-export"] | None = None,  # noqa: A002 (the name of the option)
    checkpoint: Literal["last", "best"] = "last",
    data_samples: int = 1000,
    set_: Overrides = (),
) -> int:
    """Write RUN as one ONNX or torch.export file: uint8 images -> the numbers of all tasks.

    The file is checked against the run. It is not written if any answer differs.

    Parameters
    ----------
    run
        The run folder.
    out
        The file to write, such as model.onnx or model.pt2.
    format
        onnx for ONNX Runtime, or torch-export for torch.export.load (default: by the ending of OUT:
        torch-export for .pt2, otherwise onnx). It can't contradict the ending .onnx or .pt2.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    data_samples
        Number of images to check, of validation, test and train; random ones if the data is absent.
    set_
        Set one key: `--set data.fer2013.root=DIR`. Repeatable.
    """
    from ..run import Run
    from ._shared import print_line

    done = Run(run).export(
        out, format, checkpoint=checkpoint, data_samples=data_samples, overrides=set_
    )
    for line in done.report:
        print_line(line)
    print_line(f"checked on {done.images}")
    for label, one in done.agreement.items():
        print_line(
            f"{label}: largest difference {one.largest:.2g}, {one.equal} of {one.n} answers equal"
        )
    print_line(f"{done.path}: {done.bytes / 1e6:.1f} MB, {done.format}")
    return 0
