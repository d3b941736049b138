"""What `/metadata` says about a model: its tasks, its preprocessing and where it comes from."""

from __future__ import annotations

from pathlib import Path

from .. import __version__
from ..checkpoints import Which
from ..errors import MtlError
from ..prediction.described import described_answers
from ..prediction.predictor import Predictor
from ..registry.components import component_name
from ..run import Run
from ..runs import RunFolder

Metadata = dict[str, object]
"""JSON-compatible data."""


def metadata_of(run: Run, checkpoint: Which = "last") -> Metadata:
    """Return where a model comes from: run, checkpoint, data fingerprint, versions of training.

    Paths are left out: they say how a machine is set up.
    """
    summary = run.summary
    saved = RunFolder(run.path).require(checkpoint)
    return {
        "run": Path(run.path).resolve().name,
        "checkpoint": saved.path.name,
        "trained": summary.get("started"),
        "data_fingerprint": summary.get("data_fingerprint"),
        "versions": summary.get("versions"),
    }


def metadata_of_predictor(predictor: Predictor) -> Metadata:
    """Return what a predictor answers, and how it reads an image."""
    detector = predictor.detector
    tasks: Metadata = {}
    for label, described in described_answers(predictor).items():
        tasks[label] = {"component": component_name(type(predictor.tasks[label])), **described}
    try:
        preprocess = predictor.preprocess.as_data()
    except MtlError as error:  # an augmentation of a plugin
        preprocess = {"unknown": str(error)}
    return {
        "served_by": f"mtlcore {__version__}",
        "tasks": tasks,
        "preprocess": preprocess,
        "detector": component_name(type(detector)) if detector else None,
        "mirror": predictor.mirror,
        "precision": predictor.precision,
    }
