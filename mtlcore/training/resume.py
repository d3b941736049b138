"""The experiment of a resumed run, and its differences from the experiment at the start."""

from __future__ import annotations

import tomllib
from pathlib import Path

from ..config.experiment import Experiment
from ..config.same import RESUMABLE, changed_keys, differences, with_resumable
from ..errors import MtlError
from ..runs import RunFolder
from .checkpoint import Checkpoints
from .provenance import resolved
from .result import RESULT


def experiment_to_resume(given: Experiment, folder: Path) -> Experiment:
    """Return the experiment of the run in `folder`, with the changes of `given` that are allowed.

    given: a resolved experiment. Raises MtlError that names each key with another change.
    """
    saved = RunFolder.open(folder).experiment()
    found = differences(given, saved)
    if found:
        raise MtlError(
            f"a resumed run can't change these settings of {folder}: undo the changes, or start a "
            f"new run in another folder. You can change {', '.join(RESUMABLE)}"
            "\n  " + "\n  ".join(found)
        )
    return with_resumable(saved, given)


def record_changes(checkpoints: Checkpoints, experiment: Experiment) -> None:
    """Write the settings that a resumed run changes into its config.toml and run.json."""
    folder, train_state = checkpoints.folder, checkpoints.train_state
    text, plugins = resolved(experiment)
    before, now = folder.config_tables(), tomllib.loads(text)
    fixed = changed_keys(now, before, "in the run", "here")
    if fixed:
        raise MtlError(
            f"{folder.path}: the data has changed since the run began, and so have these settings: "
            "restore the data, or start a new run\n  " + "\n  ".join(fixed)
        )
    if checkpoints.goes_on and "finished" in folder.provenance():
        # The run takes more steps. If it is interrupted, its log says more than its last result.
        folder.update_provenance({}, remove=RESULT)
    changes = changed_keys(now, before, "before", "now", resumable=True)
    if not changes:
        return
    folder.change_config(text, plugins)
    entry = {"step": train_state.step, "changes": changes}
    history = folder.provenance().get("changed", [])
    folder.update_provenance({"changed": [*history, entry]})
    for line in changes:
        checkpoints.callbacks.note(line)
    model = train_state.model
    coupled = [label for label, head in model.heads.items() if getattr(head, "coupled", False)]
    if coupled and any(line.startswith("train.devices") for line in changes):
        checkpoints.callbacks.note(
            f"from now on, the loss of {', '.join(coupled)} compares another number of samples: "
            "those of one micro-batch of all devices"
        )
    if any(line.startswith(("train.steps", "train.epochs")) for line in changes):
        checkpoints.callbacks.note(
            f"from now on, the learning-rate schedule is that of a run of {train_state.steps} steps"
        )
