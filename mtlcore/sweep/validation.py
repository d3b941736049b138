"""What is told before the first run begins: settings that can't be compared, built, or judged; folders begun otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import ndiff
from pathlib import Path

import torch
from attrs import evolve

from ..config import dump, load
from ..config.experiment import DataEntry, Experiment
from ..data.indexed import open_dataset
from ..errors import MtlError
from .axes import Axis, over, values_of
from .outcome import VALIDATION
from .planned import Planned

LOSS = "the validation loss"  # of a run without tasks
DIFFERENCES = 3  # lines that a message about another configuration shows


def require_axes(axes: Sequence[Axis]) -> None:
    keys = [axis.key for axis in axes]
    if not axes:
        raise MtlError("a sweep needs --over KEY=VALUE,VALUE")
    if "seed" in keys:
        raise MtlError("seeds are no setting to choose among: give them by --seeds")
    for key in keys:
        if keys.count(key) > 1:
            raise MtlError(f"--over {key} is given twice: list all its values in one")


def loaded(
    config: Path, overrides: Sequence[str], setting: Sequence[str], plugin_files: Sequence[Path]
) -> Experiment:
    """The experiment of one setting; in messages its values came from --over."""
    try:
        experiment = load(config, [*overrides, *setting], plugin_files)
    except MtlError as error:
        text = str(error)
        for override in setting:
            text = text.replace(f"--set {override}", f"--over {override}")
        raise MtlError(text) from error.__cause__
    if experiment.train.devices > 1:
        raise MtlError(
            f"train.devices = {experiment.train.devices}: a sweep trains each run on one device: set it to 1"
        )
    return experiment


def require_choice(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """Can one of these settings be chosen? All that is known before anything is trained."""
    _require_different(experiments)
    _require_comparable(experiments)
    for setting, experiment in experiments.items():
        _require_weighting(experiment, setting)
    _require_validation(list(experiments.values()))


def _require_different(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """The same experiment twice is the same figure twice, for two costs."""
    known: dict[str, tuple[str, ...]] = {}
    for setting, experiment in experiments.items():
        first = known.setdefault(dump(experiment), setting)
        if first != setting:
            raise MtlError(
                f"{over(setting)} is the same experiment as {over(first)}: leave one of them out "
                "(a weight of 0 takes its table out, with all its other keys)"
            )


def _require_comparable(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """One figure for all, that does not depend on what is swept."""
    judges = {_judge(experiment): setting for setting, experiment in experiments.items()}
    if len(judges) > 1:
        told = "; ".join(f"{over(setting)}: {judge}" for judge, setting in judges.items())
        raise MtlError(
            f"the settings are judged by different metrics ({told}): name one that all of them have by train.best"
        )
    keys = (key for setting in experiments for key in values_of(setting))
    factor = next(
        (key for key in keys if key.startswith("pretext.") and key.endswith(".weight")), None
    )
    if LOSS in judges and factor:
        raise MtlError(
            f"without tasks the runs are judged by their loss, and {factor} is a factor of it: "
            "name a figure that does not depend on it by train.best (an [callback.<label>] gives some)"
        )


def _judge(experiment: Experiment) -> str:
    """What a run is judged by, in words; a task's metrics are known by name only once its data is."""
    if experiment.train.best is not None:
        return experiment.train.best
    return next((f"the first metric of task.{label}" for label in experiment.tasks), LOSS)


def _require_weighting(experiment: Experiment, setting: tuple[str, ...]) -> None:
    """A missing solver, an option that does not fit, a label that this setting does not have."""
    try:
        with torch.random.fork_rng(devices=[]):
            experiment.weighting.build(list(experiment.entries))
    except MtlError as error:
        raise MtlError(f"{over(setting)}: {error}") from error


def _require_validation(experiments: Sequence[Experiment]) -> None:
    """A share of train, or a split that a dataset brings along. Such a dataset is indexed; no image is read."""
    seen: list[DataEntry] = []
    for experiment in experiments:
        entries = [] if experiment.input.validation > 0 else list(experiment.data.values())
        if not entries or all(entry in seen for entry in entries):
            continue
        seen += entries
        plain_data = {
            k: evolve(entry, exclude_duplicates="none") for k, entry in experiment.data.items()
        }
        plainly = evolve(experiment, data=plain_data)
        if not any("validation" in open_dataset(plainly, label).split for label in plain_data):
            raise MtlError(
                f"input.validation = 0: a setting is chosen on the validation split: {VALIDATION}"
            )


def require_same(run: Planned) -> None:
    """Was what lies in its folder begun with the same configuration?"""
    if run.state == "new":
        return
    if not run.config.exists():
        raise MtlError(
            f"{run.folder} holds a run that this sweep did not begin: choose another --out"
        )
    again = f"bring it back, or choose another --out (or remove {run.folder} and {run.config})"
    try:
        before = dump(load(run.config)).splitlines()
    except MtlError as error:
        raise MtlError(
            f"{run.folder} was begun with another configuration: {again}\n  {error}"
        ) from error
    now = dump(run.experiment).splitlines()
    if before != now:
        changes = [line.rstrip() for line in ndiff(before, now) if line[:1] in "+-"]
        shown = "\n  ".join(changes[:DIFFERENCES] + ["..."] * (len(changes) > DIFFERENCES))
        raise MtlError(
            f"{run.folder} was begun with another configuration (-), not with this one (+): {again}\n  {shown}"
        )
