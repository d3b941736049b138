"""What is checked before the first run starts.

Settings that can't be compared or built are refused here, and so are run folders that were started
with another configuration: a sweep can take days, so its errors must come first.
"""

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
from ..training.devices import with_micro_batches
from .axes import Axis, as_options, values_of
from .outcome import VALIDATION
from .planned import Planned

LOSS = "the validation loss"  # the main metric of a run without tasks
DIFFERENCES = 3  # changed lines that a message about another configuration shows


def require_axes(axes: Sequence[Axis]) -> None:
    """Raise MtlError where there is no axis, where a key has two, and on the key `seed`."""
    keys = [axis.key for axis in axes]
    if not axes:
        raise MtlError("a sweep needs --over KEY=VALUE,VALUE")
    if "seed" in keys:
        raise MtlError("seed is not a setting to choose: set the seeds with --seeds")
    for key in keys:
        if keys.count(key) > 1:
            raise MtlError(f"--over {key} appears twice: list all its values in one option")


def load_setting(
    config: Path, overrides: Sequence[str], setting: Sequence[str], plugin_files: Sequence[Path]
) -> Experiment:
    """Load the experiment of one setting. Raises MtlError, which names --over for its values."""
    try:
        experiment = load(config, [*overrides, *setting], plugin_files)
    except MtlError as error:
        # `load` names the option that it knows, --set.
        text = str(error)
        for override in setting:
            text = text.replace(f"--set {override}", f"--over {override}")
        raise MtlError(text) from error.__cause__
    if experiment.train.devices > 1:
        raise MtlError(
            f"train.devices = {experiment.train.devices}: "
            "a sweep trains each run on one device: set it to 1"
        )
    with_micro_batches(experiment, ranks=1)
    return experiment


def require_settings(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """Raise MtlError where the best of these settings can't be chosen. experiments: by setting."""
    _require_different(experiments)
    _require_comparable(experiments)
    for setting, experiment in experiments.items():
        _require_weighting(experiment, setting)
    _require_validation(list(experiments.values()))


def _require_different(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """Two equal experiments would be trained twice for the same result."""
    known: dict[str, tuple[str, ...]] = {}
    for setting, experiment in experiments.items():
        first = known.setdefault(dump(experiment), setting)
        if first != setting:
            raise MtlError(
                f"{as_options(setting)} is the same experiment as {as_options(first)}: "
                "remove one of them (a weight of 0 removes its table, with all its other keys)"
            )


def _require_comparable(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """All settings need the same main metric, and no swept key may scale that metric."""
    metrics = {_main_metric(experiment): setting for setting, experiment in experiments.items()}
    if len(metrics) > 1:
        listed = "; ".join(
            f"{as_options(setting)}: {metric}" for metric, setting in metrics.items()
        )
        raise MtlError(
            f"the settings have different main metrics ({listed}): "
            "set train.best to a metric that all of them have"
        )

    if LOSS not in metrics:
        return
    for setting in experiments:
        for key in values_of(setting):
            if key.startswith("pretext.") and key.endswith(".weight"):
                raise MtlError(
                    "without tasks, settings are compared by their validation loss, "
                    f"and {key} is a factor of it: "
                    "set train.best to a metric that does not depend on the weight "
                    "(a [callback.<label>] such as the probe adds some)"
                )


def _main_metric(experiment: Experiment) -> str:
    """The main metric of an experiment, in words: a task knows its metrics only with its data."""
    if experiment.train.best is not None:
        return experiment.train.best
    return next((f"the first metric of task.{label}" for label in experiment.tasks), LOSS)


def _require_weighting(experiment: Experiment, setting: tuple[str, ...]) -> None:
    """Build the loss weighting: a solver may be missing, or an option may not fit this setting."""
    try:
        # Building may draw random weights. The caller's generator must not advance.
        with torch.random.fork_rng(devices=[]):
            experiment.weighting.build(list(experiment.entries))
    except MtlError as error:
        raise MtlError(f"{as_options(setting)}: {error}") from error


def _require_validation(experiments: Sequence[Experiment]) -> None:
    """A validation split is a share of train, or comes with a dataset.

    Only the datasets of experiments without such a share are indexed. No image is decoded.
    """
    seen: list[DataEntry] = []
    for experiment in experiments:
        if experiment.input.validation > 0:
            continue
        entries = list(experiment.data.values())
        if all(entry in seen for entry in entries):
            continue
        seen += entries
        # Finding duplicates would decode every image, and does not add a split.
        data = {
            label: evolve(entry, exclude_duplicates="none")
            for label, entry in experiment.data.items()
        }
        without = evolve(experiment, data=data)
        if not any("validation" in open_dataset(without, label).split.used() for label in data):
            raise MtlError(
                f"input.validation = 0: a setting is chosen on the validation split: {VALIDATION}"
            )


def require_same_config(run: Planned) -> None:
    """Raise MtlError where the run's folder was started with another configuration."""
    if run.state == "new":
        return
    if not run.config.exists():
        raise MtlError(
            f"{run.folder} holds a run that this sweep did not start: choose another --out"
        )
    fix = f"restore it, or choose another --out (or remove {run.folder} and {run.config})"
    try:
        before = dump(load(run.config)).splitlines()
    except MtlError as error:
        raise MtlError(
            f"{run.folder} was started with another configuration: {fix}\n  {error}"
        ) from error
    now = dump(run.experiment).splitlines()
    if before != now:
        changes = [line.rstrip() for line in ndiff(before, now) if line[:1] in "+-"]
        shown = changes[:DIFFERENCES]
        if len(changes) > DIFFERENCES:
            shown.append("...")
        raise MtlError(
            f"{run.folder} was started with another configuration (-), not with this one (+): "
            f"{fix}\n  " + "\n  ".join(shown)
        )
