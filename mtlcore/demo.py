"""The study that `mtl demo` runs: supervised learning (SL) against the hybrid model (HMTL).

The experiment is the one that a plugin ships as "demo". SL trains it without its pretexts and
without its unlabeled samples, HMTL as it is. Both take the same steps and the same labeled samples,
with three seeds.

    FOLDER/demo.toml         the experiment
    FOLDER/study.toml        the study: arms and seeds
    FOLDER/study/            its runs and tables
    FOLDER/images/           a few images of the test split
    FOLDER/sheet.png         what the pretexts ask, and the answers of the first hybrid run
    FOLDER/predictions.png   its predictions for the images
    FOLDER/report.html       the report of the study
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from attrs import frozen
from PIL import Image

from .config import load
from .config.experiment import Experiment
from .data.dataset import open_data
from .errors import MtlError
from .evaluation.preview import preview, readable_samples
from .files import exists, write_atomically, write_errors_as_mtl_error
from .prediction.predictor import predictor_of
from .prediction.results import PredictedImage
from .runs import RunFolder
from .study.report import Tables
from .study.results import key_of, name_of
from .study.statistics import spread
from .study.study import Study

SEEDS = (0, 1, 2)
SL, HMTL = "SL", "HMTL"
IMAGES = 6  # to predict


@frozen
class Demo:
    """The folder of a demo and its study. `write_demo` makes one.

    experiment: the hybrid one.
    """

    folder: Path
    study: Study
    experiment: Experiment

    def example_run(self) -> RunFolder:
        """The first finished hybrid run. Raises MtlError if none has a result."""
        for row in self.study.workspace.sorted_rows().ended:
            if row["arm"] == HMTL and "failed" not in row:
                return RunFolder.open(self.study.workspace.work / name_of(key_of(row)))
        raise MtlError(f"no run of {HMTL} has a result; see {self.study.folder / 'table.md'}")

    def draw_sheet(self) -> Path:
        """Write what the pretexts ask, with the answers of the example run, and return the file."""
        run = self.example_run()
        return _save(self.folder / "sheet.png", preview(run.experiment(), run.path))

    def save_images(self) -> list[Path]:
        """Write a few images of the test split as files, and return them."""
        _, data = open_data(self.example_run().experiment(), {"test"}, lazy=True)
        chosen = readable_samples(data, data.split["test"], IMAGES)
        pixels = data.images.take(chosen).images.permute(0, 2, 3, 1).numpy()
        folder = self.folder / "images"
        with write_errors_as_mtl_error(folder):
            folder.mkdir(exist_ok=True)
        return [_save(folder / f"{i:02d}.png", image) for i, image in enumerate(pixels, 1)]

    def predict(self, images: Sequence[Path]) -> list[PredictedImage]:
        """Predict images with the example run, and draw the answers into predictions.png."""
        predictor = predictor_of(self.example_run())
        predicted = list(predictor.images(*images, drawn=True))
        pages = [page for one in predicted if (page := one.draw()) is not None]
        _save(self.folder / "predictions.png", _stacked(pages))
        return predicted

    def result(self) -> list[str]:
        """What the study says, in lines: the arms, their difference, the verdict."""
        tables = Tables(self.study.known())
        values, compared, label = tables.compared()
        digits = tables.scale.digits
        unit = " in points" if tables.scale.factor != 1 else ""
        lines = [f"{label}{unit}, mean +- standard deviation over seeds:"]
        for name, by_seed in values.items():
            cpu_s = [row["cpu_s"] for row in tables.plan.results.rows if row["arm"] == name]
            shown = spread(list(by_seed.values())).shown(digits)
            mean_s = sum(cpu_s) / max(len(cpu_s), 1)
            lines.append(f"  {name:<5} {shown}   ({len(cpu_s)} runs of {mean_s:.1f} CPU s)")
        for found in compared:
            lines.append(
                f"{found.arm} minus {found.baseline}: {found.signed(digits)} "
                f"(95 % t interval, {found.difference.n} pairs): {found.text}"
            )
        return lines


def write_demo(folder: Path, example: Path, overrides: Sequence[str] = ()) -> Demo:
    """Write the experiment and the study into a new folder, and load them.

    example: the TOML file of an experiment. overrides: settings of every run.

    Raises MtlError if the folder exists, or on wrong overrides; then nothing is written.
    """
    require_new(folder)
    for override in overrides:
        if _key(override) in ("seed", "train.epochs"):
            raise MtlError(
                f"--set {override}: the demo trains the seeds {', '.join(map(str, SEEDS))}, for "
                "train.steps each: set train.steps, or edit the study of a demo"
            )
    experiment = load(example, overrides)
    text = study_text(experiment, example.name, overrides)
    with write_errors_as_mtl_error(folder):
        folder.mkdir(parents=True)
        write_atomically(folder / example.name, example.read_bytes())
        write_atomically(folder / "study.toml", text.encode())
    return Demo(folder, Study.load(folder / "study.toml"), experiment)


def study_text(experiment: Experiment, config: str, overrides: Sequence[str]) -> str:
    """Return the study file. config: the name of the file of the experiment, beside it."""
    off = [f"pretext.{label}.weight=0" for label in experiment.pretexts]
    kept = [label for label, entry in experiment.data.items() if entry.unlabeled == "keep"]
    dropped = [f"data.{label}.unlabeled=drop" for label in kept]
    lines = [
        f"config = {json.dumps(config)}",
        f"seeds = {list(SEEDS)}  # add some, and run the study again: finished runs are kept",
        f"baseline = {json.dumps(SL)}",
    ]
    if dropped:
        lines.append('differ = ["data"]  # HMTL has the unlabeled samples, too')
    settings = [override for override in overrides if _key(override) != "train.steps"]
    if len(settings) < len(overrides):
        lines.append(f"steps = {experiment.train.steps}")
    if settings:
        lines.append(f"settings = {json.dumps(settings)}  # of every run")
    lines += ["", f"[arms.{SL}]", f"set = {json.dumps([*off, *dropped])}"]
    lines += ["", f"[arms.{HMTL}]", "set = []"]
    return "\n".join(lines) + "\n"


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def require_new(folder: Path) -> None:
    """Raise MtlError where the folder exists."""
    if exists(folder):
        raise MtlError(f"--out {folder}: exists already: choose another folder, or remove it")


def next_folder(parent: Path) -> Path:
    """The first of parent/demo-1, parent/demo-2, ... that does not exist."""
    number = 1
    while (folder := parent / f"demo-{number}").exists():
        number += 1
    return folder


def _save(file: Path, image: np.ndarray) -> Path:
    """Write an image (H, W, 3) uint8."""
    with write_errors_as_mtl_error(file):
        Image.fromarray(image).save(file)
    return file


def _stacked(pages: Sequence[np.ndarray]) -> np.ndarray:
    """Images (h, w, 3) one below the other, with white to the right of narrow ones."""
    width = max(page.shape[1] for page in pages)
    rows = []
    for page in pages:
        margin = ((0, 0), (0, width - page.shape[1]), (0, 0))
        rows.append(np.pad(page, margin, constant_values=255))
    return np.concatenate(rows)
