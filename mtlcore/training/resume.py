"""The experiment with which a run is resumed."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve

from ..config.experiment import Experiment
from ..config.same import differences
from ..errors import MtlError
from ..runs import RunFolder


def experiment_to_resume(given: Experiment, folder: Path) -> Experiment:
    """The experiment of the run in `folder`, with `train.devices` of the given one.

    given: a resolved experiment. Raises MtlError if it differs from that of the run.
    """
    saved = RunFolder.open(folder).experiment()
    found = differences(given, saved)
    if found:
        raise MtlError(
            f"{folder} holds a run of another experiment, so it can't be resumed with this one: "
            "choose another `out`, or pass the experiment of the run, "
            f"mtlcore.load_run({str(folder)!r}).experiment\n  " + "\n  ".join(found)
        )
    return evolve(saved, train=evolve(saved.train, devices=given.train.devices))
