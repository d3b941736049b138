"""`mtl predict`: the answers of a run for images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from attrs import define
from cyclopts import Parameter

from ..errors import MtlError
from ..files import in_shell
from ._options import Json, Overrides, PluginFiles

if TYPE_CHECKING:
    from ..callbacks.bars import Bars
    from ..contracts import Detector
    from ..prediction.predictor import Predictor
    from ..prediction.results import PredictedImage, Prediction
    from ..prediction.sources import Listing
    from ..prediction.tables import WriteRow

EXAMPLES = 5  # files that are named in a message


def predict(
    run: Path,
    /,
    *source: str,
    detector: str | None = None,
    set_: Overrides = (),
    plugin: PluginFiles = (),
    csv: Path | None = None,
    parquet: Path | None = None,
    json: Json = False,
    draw: Path | None = None,
    batch_size: int = 32,
    checkpoint: Literal["last", "best"] = "last",
    mirror: Annotated[bool, Parameter(negative="")] = False,
    device: str | None = None,
) -> int:
    """Predict images with RUN, one row for each image, or for each region of a detector.

    Parameters
    ----------
    run
        The run folder, or a folder that `mtl package` wrote.
    source
        Images, folders, globs, tables (.csv with a column `path`), videos. Repeatable.
    detector
        Predict each region that this detector finds, such as `faces`; default: the whole image.
    set_
        Set a key of the detector: `--set detector.threshold=0.7`. Repeatable.
    plugin
        Load a one-file plugin, of the detector or of a package. Repeatable.
    csv
        Write the rows to this table, a new file.
    parquet
        Write the rows to this table, a new file.
    json
        Print one JSON object per line.
    draw
        Draw each image with its boxes and predictions, as PNG files in this new or empty folder.
    batch_size
        Images per forward.
    checkpoint
        The last checkpoint (the one to report), or the best one on validation.
    mirror
        Average the predictions of each image and its mirror image: two forwards per image.
    device
        The device, such as cpu or cuda:1; default: a GPU if there is one.
    """
    from ..prediction.sources import listing
    from ._outputs import require_new, require_outside
    from ._predictor import open_predictor
    from ._shared import print_line

    if not source:
        raise MtlError(
            "nothing to predict: add images, folders, globs, tables or videos, such as: "
            f"mtl predict {in_shell(run)} photos/"
        )
    require_new(csv, parquet, draw)
    found = listing(source)
    if draw is not None:
        require_outside(draw, found.folders)
    predictor = open_predictor(
        run,
        detector=_detector(run, detector, set_, plugin),
        plugins=plugin,
        batch_size=batch_size,
        mirror=mirror,
        checkpoint=checkpoint,
        device=device,
    )
    _ = predictor.detect  # it may fail to load: before any output begins
    counts = _write_predictions(predictor, found, csv, parquet, json, draw)
    if not json:
        predictions = "prediction" if counts.predictions == 1 else "predictions"
        print_line(f"{counts.predictions} {predictions}, {counts.errors} without an answer")
        for written in (csv, parquet, draw):
            if written is not None:
                print_line(f"written: {written}")
    _print_passed_over(found.passed_over, json)
    if not counts.read:
        raise MtlError(f"no image can be read; the first error: {counts.first_error}")
    return 0


def _print_passed_over(files: Sequence[str], json: bool) -> None:
    """Print one line about the files that are not images; on stderr beside JSON."""
    from ..data.folder import IMAGES
    from ..errors import first_few
    from ._shared import print_line

    if not files:
        return
    number = "1 file is" if len(files) == 1 else f"{len(files)} files are"
    line = f"{number} not one of {', '.join(IMAGES)}: {first_few(files, EXAMPLES)}"
    if json:
        print(f"mtl: note: {line}", file=sys.stderr)
    else:
        print_line(line)


@define
class _Counts:
    """Of the predictions of one command. read: images, or their regions, that could be read."""

    predictions: int = 0
    errors: int = 0
    read: int = 0
    first_error: str = ""

    def add(self, prediction: Prediction) -> None:
        from ..prediction.regions import NOTHING_FOUND

        self.predictions += 1
        self.errors += bool(prediction.error)
        self.read += prediction.error in ("", NOTHING_FOUND)
        self.first_error = self.first_error or prediction.error


def _write_predictions(
    predictor: Predictor,
    found: Listing,
    csv: Path | None,
    parquet: Path | None,
    json: bool,
    draw: Path | None,
) -> _Counts:
    """Predict, and write what the options ask for."""
    from contextlib import ExitStack

    from ..prediction.tables import csv_table, parquet_table

    prints = json or (csv is None and parquet is None)
    counts = _Counts()
    with ExitStack() as stack:
        columns = predictor.column_types()
        # First of all: if the folder can't be made, no table is begun.
        pages = None if draw is None else _Pages(draw)
        writers: list[WriteRow] = []
        if csv is not None:
            writers.append(stack.enter_context(csv_table(csv, list(columns))))
        if parquet is not None:
            writers.append(stack.enter_context(parquet_table(parquet, columns)))
        bars = stack.enter_context(_bars(prints))
        for done, image in enumerate(predictor.images(*found.sources, drawn=draw is not None), 1):
            for region in image.regions:
                counts.add(region.prediction)
                for write in writers:
                    write(region.prediction.as_row())
                if prints:
                    _print(region.prediction, json)
            if pages is not None:
                pages.write(image)
            if found.count is not None:
                bars.progress("images", done, found.count)
    return counts


def _print(prediction: Prediction, json: bool) -> None:
    """Print one line: JSON, or words."""
    from ..files import to_json
    from ._shared import print_line

    if json:
        print(to_json(prediction.as_dict()))
    else:
        print_line(in_words(prediction))


def _detector(
    run: Path, name: str | None, overrides: Sequence[str], plugins: Sequence[Path]
) -> Detector | None:
    """The detector with the keys of `--set`."""
    from ..config.overrides import Table, apply
    from ._predictor import detector_named

    tables: Table = {}
    apply(tables, overrides)
    fields = tables.pop("detector", {})
    if not isinstance(fields, dict):
        raise MtlError("--set detector: name a key of it, such as --set detector.threshold=0.7")
    if tables:
        key = next(iter(tables))
        raise MtlError(
            f"--set {key}: only keys of the detector can be set here, such as: "
            "--set detector.threshold=0.7"
        )
    return detector_named(name, run, plugins, **fields)


class _Pages:
    """Writes the drawn images of one command into a folder, with unique names."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MtlError(f"can't write {folder}: {error.strerror or error}") from error
        self.folder = folder
        self.used: set[str] = set()

    def write(self, image: PredictedImage) -> None:
        """Write one image as "<name>.png", "<name>-2.png" if the name is taken."""
        from ._png import save_png

        drawn = image.draw()
        if drawn is None:
            return
        prediction = image.regions[0].prediction
        name = Path(prediction.file).stem or "image"
        if prediction.frame is not None:
            name += f"-frame{prediction.frame:06d}"
        unique, number = name, 1
        while unique in self.used:
            number += 1
            unique = f"{name}-{number}"
        self.used.add(unique)
        save_png(self.folder / f"{unique}.png", drawn)


def _bars(prints: bool) -> Bars:
    """Progress bars on stderr; none where rows are printed on the same terminal, or in a file."""
    import sys

    from rich.console import Console

    from ..callbacks.bars import Bars

    console = Console(stderr=True)
    return Bars(not console.is_terminal or (prints and sys.stdout.isatty()), console=console)


def in_words(prediction: Prediction) -> str:
    """Return one line: the file, and the answer of each task."""
    from ..prediction.results import answer_in_words

    where = prediction.file or "image"
    if prediction.frame is not None:
        where += f" frame {prediction.frame}"
    if prediction.box is not None:
        where += " at " + ", ".join(f"{side:.0f}" for side in prediction.box)
    if prediction.error:
        return f"{where}  error: {prediction.error}"
    parts = [f"{label}: {answer_in_words(answer)}" for label, answer in prediction.answers.items()]
    return "  ".join([where, *parts])
