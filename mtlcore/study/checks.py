"""What is checked before the first run starts: a study can take days, so its errors come first.

The experiment of every arm is loaded. What all arms must share is compared, unless the study says
that it differs. No image is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from attrs import evolve

from ..config import dump, load
from ..config.experiment import DataEntry, Experiment
from ..config.overrides import Table, parse_override
from ..config.same import changed_keys
from ..config.write import tables_of
from ..data.indexed import open_dataset
from ..errors import MtlError, first_few, nearest
from ..training.devices import with_micro_batches
from .definition import Arm, Definition
from .results import Run

LOSS = "the validation loss"  # the main metric of a run without tasks
VALIDATION = "set input.validation to the share of the training samples to hold out, such as 0.1"
SHOWN = 3  # changed keys that a message names
UNEQUAL_INPUT = ("input.eval_batch_size", "input.unlabeled_batch")

Loaded = Mapping[tuple[str, int], Experiment]
"""Arm and trial -> experiment."""


def prepared(definition: Definition) -> Definition:
    """Return the study with its steps, and with the pretexts that controls switch off.

    Raises MtlError on
    - an unknown key or a wrong value, as any configuration does;
    - arms that differ in what they must share, or that are the same experiment;
    - arms with different main metrics;
    - a weighting that can't be built, or a missing validation split.
    """
    _require_free_keys(definition)
    loaded = _load_arms(definition)
    first = loaded[definition.baseline, 0]
    steps = definition.steps or first.train.steps
    if steps is None:
        raise MtlError(
            f"{definition.name}: {Path(definition.config).name} sets train.epochs: arms are "
            "compared at equal steps: set `steps` in the study"
        )
    problems = [
        *_unequal(definition, loaded),
        *_unequal_trials(loaded),
        *_same_twice(definition, loaded),
        *_metrics(definition, loaded),
        *_weightings(loaded),
    ]
    if problems:
        raise MtlError("\n  ".join([f"{definition.name}:", *problems]))
    _require_validation(list(loaded.values()))
    for extra in definition.extras:
        settings = [*first_settings(definition), *extra.set, f"train.steps={steps}"]
        load(definition.base(extra.config), settings, _plugins(definition))
    if definition.steps is None:
        definition = _with_factors(definition, loaded, steps)
    return evolve(_with_pretexts(definition, loaded), steps=steps)


def _require_free_keys(definition: Definition) -> None:
    """Raise MtlError on settings of `seed` and steps that the study itself sets for each run.

    In an arm, in its pre-training and in an extra they would do nothing. In `settings` they would
    replace the seed and the steps that the name of a run, its row and the tables have.
    """
    of_arms = {"seed": "`seeds` sets the seeds of all arms"}
    of_arms |= {"train.epochs": "arms are compared at equal steps: set train.steps"}
    if definition.steps is not None:
        of_arms |= _both_steps("`steps` sets the steps of all arms: use `factor`")
    of_first_part = {"seed": "`seeds` sets the seeds of all arms"}
    of_first_part |= _both_steps("`share` sets the steps of the pre-training")
    of_all = {"seed": "`seeds` sets the seeds of all arms"}
    of_all |= _both_steps("set `steps` (and `tune_steps` for trials) in the study")
    of_extra = {"seed": "set `seeds` of the extra"}
    of_extra |= _both_steps("set `factor` of the extra: it multiplies the steps of the study")

    problems: list[str] = []
    for name, arm in definition.arms.items():
        settings = [*arm.set, *(word for trial in arm.trials for word in trial)]
        problems += _taken(f"arms.{name}", settings, of_arms)
        if arm.pretraining is not None:
            where = f"arms.{name}.pretraining.set"
            problems += _taken(where, arm.pretraining.set, of_first_part)
    problems += _taken("settings", definition.settings, of_all)
    for extra in definition.extras:
        problems += _taken(f"extras.{extra.name}.set", extra.set, of_extra)
    if problems:
        raise MtlError("\n  ".join([f"{definition.name}:", *problems]))


def _both_steps(hint: str) -> dict[str, str]:
    return {"train.steps": hint, "train.epochs": hint}


def _taken(where: str, settings: Sequence[str], hints: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each setting of a key that has a hint."""
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in hints:
            yield f"{where}: {setting}: {hints[key]}"


def _with_factors(definition: Definition, loaded: Loaded, steps: int) -> Definition:
    """Return the study with the steps that arms set themselves, as multipliers of its `steps`."""
    arms: dict[str, Arm] = {}
    for name, arm in definition.arms.items():
        own = loaded[name, 0].train.steps
        arms[name] = arm if own in (None, steps) else evolve(arm, factor=arm.factor * own / steps)
    return evolve(definition, arms=arms)


def first_settings(definition: Definition) -> tuple[str, ...]:
    """Return the settings of the baseline."""
    baseline = definition.arms[definition.baseline]
    return (*baseline.set, *baseline.trials[0])


def _plugins(definition: Definition) -> list[Path]:
    return [Path(plugin) for plugin in definition.plugins]


def _load_arms(definition: Definition) -> dict[tuple[str, int], Experiment]:
    loaded: dict[tuple[str, int], Experiment] = {}
    problems: dict[str, list[str]] = {}  # message -> arms and trials
    for arm in definition.arms.values():
        for trial in range(len(arm.trials)):
            try:
                loaded[arm.name, trial] = _load(definition, arm, trial)
            except MtlError as error:
                lines = str(error).splitlines()
                # A message of several lines begins with the file.
                shown = lines[1:] if len(lines) > 1 else lines
                for line in shown:
                    problems.setdefault(line.strip(), []).append(_where(arm, trial))
    if problems:
        lines = [_of_arms(where, line, definition) for line, where in problems.items()]
        raise MtlError("\n  ".join([f"{definition.name}, on {definition.config}:", *lines]))
    return loaded


def _of_arms(where: Sequence[str], line: str, definition: Definition) -> str:
    """Return a problem with its arms; without them if all arms have it."""
    trials = sum(len(arm.trials) for arm in definition.arms.values())
    return line if len(where) == trials > 1 else f"{first_few(where, SHOWN)}: {line}"


def _load(definition: Definition, arm: Arm, trial: int) -> Experiment:
    run = Run("main", arm, trial, 0, 1)
    settings = [*run.overrides[:-1], *definition.settings]
    if definition.steps is not None:
        settings.append(f"train.steps={definition.steps}")
    if arm.pretraining is not None:
        load(definition.base(), [*settings, *arm.pretraining.set], _plugins(definition))
    experiment = load(definition.base(), settings, _plugins(definition))
    if experiment.train.devices > 1:
        raise MtlError(
            f"train.devices = {experiment.train.devices}: "
            "a study trains each run on one device: set it to 1"
        )
    with_micro_batches(experiment, ranks=1)
    return experiment


def _where(arm: Arm, trial: int) -> str:
    return f"arms.{arm.name}" if len(arm.trials) == 1 else f"arms.{arm.name}.trials[{trial}]"


# ------------------------------------------------------------------------------- what arms share


def _unequal(definition: Definition, loaded: Loaded) -> Iterator[str]:
    """Yield a line for each thing that an arm must share with the baseline, and does not."""
    first = tables_of(loaded[definition.baseline, 0])
    for arm in definition.arms.values():
        told: set[str] = set()
        for trial in range(len(arm.trials)):
            now = tables_of(loaded[arm.name, trial])
            for what in ("encoder", "data", "input", "steps"):
                found = _changed(what, first, now)
                if not found or what in definition.differ or what in told:
                    continue
                told.add(what)
                yield (
                    f"{_where(arm, trial)}: {first_few(found, SHOWN)}: arms must share "
                    f'{_SHARED[what]}; if this is what the study compares, add differ = ["{what}"]'
                )


def _unequal_trials(loaded: Loaded) -> Iterator[str]:
    """All trials of an arm have the same number of steps, which is that of its full runs."""
    for (name, trial), experiment in loaded.items():
        first = loaded[name, 0].train
        if (first.steps, first.epochs) != (experiment.train.steps, experiment.train.epochs):
            yield f"arms.{name}.trials[{trial}]: the trials of an arm need the same train.steps"


_SHARED = {
    "encoder": "the encoder",
    "data": "the data and its splits",
    "input": "[input]",
    "steps": "the number of steps (an arm's `factor` multiplies it)",
}


def _changed(what: str, first: Table, now: Table) -> list[str]:
    sections = {"encoder": ["encoder"], "data": ["data"], "input": ["input"], "steps": ["train"]}
    before = {key: first.get(key, {}) for key in sections[what]}
    after = {key: now.get(key, {}) for key in sections[what]}
    lines = changed_keys(after, before, "in the baseline", "here", resumable=True)
    if what == "input":
        return [line for line in lines if not line.startswith(UNEQUAL_INPUT)]
    if what == "steps":
        return [line for line in lines if line.startswith(("train.steps:", "train.epochs:"))]
    return lines


def _same_twice(definition: Definition, loaded: Loaded) -> Iterator[str]:
    """Two equal experiments would be trained twice for the same result."""
    known: dict[tuple[object, ...], str] = {}
    for (name, trial), experiment in loaded.items():
        arm = definition.arms[name]
        # An arm with the trials of another one differs from it by its steps or its first part.
        where = _where(arm, trial)
        tuned = (name, arm.like) if len(arm.trials) > 1 or arm.like else ""
        identity = (dump(experiment), arm.factor, arm.pretraining, tuned)
        first = known.setdefault(identity, where)
        if first != where:
            yield (
                f"{where} is the same experiment as {first}: remove one of them "
                "(a weight of 0 removes its table, with all its other keys)"
            )


# --------------------------------------------------------------------------- what compares them


def _metrics(definition: Definition, loaded: Loaded) -> Iterator[str]:
    """All arms need the same main metric, and no weight of an arm may scale that metric."""
    if definition.metric is not None:
        yield from _without_metric(definition, loaded)
        return
    by_metric: dict[str, str] = {}
    for (name, trial), experiment in loaded.items():
        by_metric.setdefault(_main_metric(experiment), _where(definition.arms[name], trial))
    if len(by_metric) > 1:
        listed = "; ".join(f"{where}: {metric}" for metric, where in by_metric.items())
        yield (
            f"the arms have different main metrics ({listed}): "
            "set `metric`, or train.best, to a metric that all of them have"
        )
    if LOSS in by_metric:
        yield from _scaled_losses(definition)


def _without_metric(definition: Definition, loaded: Loaded) -> Iterator[str]:
    """Yield a line if `metric` is of no task, pretext or callback of an arm.

    Which metrics a task has may depend on its data, so the rest is checked after the first run.
    """
    metric = definition.metric or ""
    label = metric.partition("/")[0]
    for (name, trial), experiment in loaded.items():
        known = [*experiment.entries, *experiment.callbacks]
        if metric != "loss" and (label not in known or label == metric):
            where = _where(definition.arms[name], trial)
            yield (
                f'metric = {metric!r}: expected "<task>/<metric>" that all arms have; '
                f"{where} has no such metric; {nearest(label, known)}"
            )
            return


def _scaled_losses(definition: Definition) -> Iterator[str]:
    for arm in definition.arms.values():
        for setting in [*arm.set, *(word for trial in arm.trials for word in trial)]:
            path, _ = parse_override(setting)
            if path[0] == "pretext" and path[-1] == "weight":
                yield (
                    f"arms.{arm.name}: without tasks, arms are compared by their validation loss, "
                    f"and {'.'.join(path)} is a factor of it: set train.best to a metric that does "
                    "not depend on the weight (a [callback.<label>] such as the probe adds some)"
                )
                return


def _main_metric(experiment: Experiment) -> str:
    """The main metric of an experiment, in words: a task knows its metrics only with its data."""
    if experiment.train.best is not None:
        return experiment.train.best
    return next((f"the first metric of task.{label}" for label in experiment.tasks), LOSS)


def _weightings(loaded: Loaded) -> Iterator[str]:
    """Build the loss weightings: a solver may be missing, or an option may not fit an arm."""
    for (name, _), experiment in loaded.items():
        try:
            # Building may draw random weights. The caller's generator must not advance.
            with torch.random.fork_rng(devices=[]):
                experiment.weighting.build(list(experiment.entries))
        except MtlError as error:
            yield f"arms.{name}: {error}"


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
                "input.validation = 0: arms are compared on the validation split: " + VALIDATION
            )


def _with_pretexts(definition: Definition, loaded: Loaded) -> Definition:
    """Name the pretexts of each arm that the baseline does not have, for its controls."""
    first = loaded[definition.baseline, 0].pretexts
    arms: dict[str, Arm] = {}
    for name, arm in definition.arms.items():
        own = [label for label in loaded[name, 0].pretexts if label not in first]
        arms[name] = arm if arm.pretexts or not own else evolve(arm, pretext=tuple(own))
    return evolve(definition, arms=arms)
