"""`mtl predict`: what a run says about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ..errors import MtlError
from ._options import Json, PluginFiles

if TYPE_CHECKING:
    from ..contracts import Answer
    from ..evaluation.predict import Prediction


def predict(
    run: Path,
    source: Annotated[tuple[str, ...], Parameter(negative="")],
    /,
    *,
    csv: Path | None = None,
    parquet: Path | None = None,
    json: Json = False,
    batch_size: int = 32,
    checkpoint: Literal["last", "best"] = "last",
    mirror: Annotated[bool, Parameter(negative="")] = False,
    device: str | None = None,
    plugin: PluginFiles = (),
) -> int:
    """Predict images with RUN, one row for each image, or for each region of a detector.

    Parameters
    ----------
    run
        The run folder, or a folder that `mtl package` wrote.
    source
        Images, folders, globs, tables (.csv with a column `path`), videos. Repeatable.
    csv
        Write the rows to this table.
    parquet
        Write the rows to this table; needs pyarrow.
    json
        Print one JSON object per line.
    batch_size
        Images of one forward.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    mirror
        Average the predictions for each image and its mirror image: two forwards per image.
    device
        Such as cpu or cuda:1; default: a GPU if there is one.
    plugin
        A one-file plugin that a package needs. Repeatable.
    """
    from contextlib import ExitStack

    from ..evaluation.package import is_package, load_package
    from ..evaluation.tables import csv_table, parquet_table
    from ..files import to_json
    from ..run import Run
    from ._shared import print_line

    if not source:
        raise MtlError(f"mtl predict needs at least one source, such as: mtl predict {run} photos/")
    if is_package(run):
        predictor = load_package(
            run, plugins=plugin, batch_size=batch_size, mirror=mirror, device=device
        )
    else:
        predictor = Run(run).predictor(
            batch_size=batch_size, mirror=mirror, checkpoint=checkpoint, device=device
        )
    failed = number = 0
    with ExitStack() as stack:
        columns = predictor.columns()
        writers = []
        if csv is not None:
            writers.append(stack.enter_context(csv_table(csv, columns)))
        if parquet is not None:
            writers.append(stack.enter_context(parquet_table(parquet, columns)))
        for prediction in predictor.stream(*source):
            number += 1
            failed += bool(prediction.error)
            for write in writers:
                write(prediction.as_row())
            if json:
                print(to_json(prediction.as_dict()))
            elif not writers:
                print_line(in_words(prediction))
    if not json:
        images = "prediction" if number == 1 else "predictions"
        print_line(f"{number} {images}, {failed} without an answer")
    return 0


def in_words(prediction: Prediction) -> str:
    """Return one line: the file, and the answer of each task."""
    where = prediction.file or "image"
    if prediction.frame is not None:
        where += f" frame {prediction.frame}"
    if prediction.box is not None:
        where += " at " + ", ".join(f"{side:.0f}" for side in prediction.box)
    if prediction.error:
        return f"{where}  error: {prediction.error}"
    parts = [f"{label}: {_words(answer)}" for label, answer in prediction.answers.items()]
    return "  ".join([where, *parts])


def _words(answer: Answer) -> str:
    """Return the label, the labels, or the numbers of an answer."""
    if "label" in answer:
        probability = answer.get("probability")
        shown = f" {probability:.2f}" if isinstance(probability, float) else ""
        return f"{answer['label']}{shown}"
    if "labels" in answer:
        return ", ".join(answer["labels"]) or "none"
    numbers = [f"{name} {value:.4g}" for name, value in answer.items()]
    return ", ".join(numbers)
