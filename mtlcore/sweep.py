"""A sweep: one experiment with several values of one or more keys, each over several seeds; the best setting is written as TOML.

    DIR/<setting>_seed=<n>/        a run like any other, one for each setting and seed
    DIR/configs/<the same>.toml    what it was begun with: a run that was begun otherwise is never gone on with
    DIR/sweep.json                 every figure, and what was chosen; rewritten after each run
    DIR/chosen.toml                the chosen setting, complete: `mtl train DIR/chosen.toml`

Runs follow one another. Those that are finished are read, those that were interrupted go on, the others begin: the same command
again is all it takes, also with further values or seeds. A setting is chosen by the mean of the run's main metric (`train.best`)
at the last step ON THE VALIDATION SPLIT; the test split is not read. A weight of 0 takes its table out of the experiment: the run
without it is a setting like the others. A run that diverges is noted as such and not tried again: its setting is never chosen.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from difflib import ndiff
from pathlib import Path
from typing import Any, Literal

import torch
from attrs import evolve, frozen

from .config import dump, load
from .config.overrides import parse_override, plain
from .data.sources import open_source
from .errors import MtlError
from .experiment import DataEntry, Experiment
from .runs import RunFolder, said, write_whole
from .train.loop import train
from .train.observe import best_by, directions
from .train.record import Diverged
from .train.watch import Watcher

State = Literal["finished", "diverged", "begun", "new"]
ENDED = ("finished", "diverged")
VALIDATION = "set input.validation to the share of the training rows to keep for it, such as 0.1"
LONGEST = 40  # letters of a value in a folder's name
LOSS = "the validation loss"  # of a run without tasks
DIFFERENCES = 3  # lines that a message about another configuration shows


@frozen
class Axis:
    """One key, and the values that it takes, as they were typed."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """ "KEY=V1,V2,...": TOML values, parted by the commas that stand outside of brackets and quotes.

        A list is one value in brackets: `augment.crop=[0.5,0.9],[0.7,1.0]` are two. What is no TOML is a bare string, as for
        `--set`. Raises MtlError where it is not of this form, and where a value stands there twice.
        """
        key, equals, typed = text.partition("=")
        values = tuple(_parted(typed)) if equals else ()
        if not values or "" in values:
            raise MtlError(f"--over {text}: expected KEY=VALUE,VALUE, such as pretext.puzzling.weight=0,0.1,0.3")
        axis = cls(key.strip(), values)
        meant = [plain(parse_override(override)[1]) for override in axis.overrides]
        twice = next((v for i, v in enumerate(meant) if any(type(v) is type(w) and v == w for w in meant[:i])), None)
        if twice is not None:
            raise MtlError(f"--over {text}: the value {twice!r} stands there twice")
        return axis

    @property
    def overrides(self) -> tuple[str, ...]:
        """One `--set` a value."""
        return tuple(f"{self.key}={value}" for value in self.values)


@frozen
class Planned:
    """One run of the sweep. setting: what it sets, one override an axis."""

    name: str
    setting: tuple[str, ...]
    seed: int
    experiment: Experiment
    folder: Path
    config: Path

    @property
    def state(self) -> State:
        """What lies in its folder."""
        run = RunFolder(self.folder)
        if not run.config.is_file():
            return "new"
        facts = run.facts()
        return "finished" if facts.get("finished") else "diverged" if facts.get("diverged") else "begun"


@frozen
class Figure:
    """One run that ended. value: of the main metric; nan where it came to nothing. validation: all figures on that split.

    diverged: it ended before its last step. steps, cpu_s: then those of its last log line.
    """

    run: str
    seed: int
    value: float
    validation: dict[str, float]
    steps: int
    cpu_s: float
    diverged: bool = False


@frozen
class Setting:
    """The runs of one setting that ended. values: by key, as TOML understands them."""

    values: dict[str, Any]
    figures: tuple[Figure, ...]

    @property
    def n(self) -> int:
        return len(self.figures)

    @property
    def diverged(self) -> int:
        """How many of them diverged."""
        return sum(f.diverged for f in self.figures)

    @property
    def mean(self) -> float:
        """Of the main metric over the seeds; nan where there is none, or where one is nan."""
        return statistics.fmean(f.value for f in self.figures) if self.figures else math.nan

    @property
    def sd(self) -> float:
        """The sample's standard deviation (n - 1); nan of a single run."""
        values = [f.value for f in self.figures]
        return statistics.stdev(values) if self.n > 1 and all(map(math.isfinite, values)) else math.nan


@frozen
class Outcome:
    """Where a sweep stands. metric: "" before the first run has ended. chosen: the best setting, once all have."""

    metric: str
    higher_is_better: bool
    settings: tuple[Setting, ...]
    chosen: Setting | None

    def as_json(self) -> dict[str, Any]:
        """What sweep.json and `mtl sweep --json` say."""
        return {
            "split": "validation",
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "settings": [_setting_json(setting) for setting in self.settings],
            "chosen": self.chosen.values if self.chosen else None,
        }


@frozen
class Sweep:
    """All that is to be run. `train` the `runs` one after the other, in any order, then `choose`."""

    out: Path
    runs: tuple[Planned, ...]

    @classmethod
    def plan(
        cls,
        config: Path,
        axes: Sequence[Axis],
        out: Path,
        *,
        seeds: Sequence[int] = (),
        overrides: Sequence[str] = (),
        plugin_files: Sequence[Path] = (),
    ) -> Sweep:
        """Read every run's experiment, and note it below `out`; nothing is trained yet.

        seeds: default: the configuration's own. Raises MtlError: the configuration's messages about a key or a value; settings
        that can't be compared, or are one experiment; a weighting that can't be built; no validation split; and where `out` holds
        runs that were begun with another configuration.
        """
        _require_axes(axes)
        settings = list(itertools.product(*(axis.overrides for axis in axes)))
        experiments = {setting: _loaded(config, overrides, setting, plugin_files) for setting in settings}
        _require_choice(experiments)
        runs = []
        for setting, first in experiments.items():
            for seed in dict.fromkeys(seeds or (first.seed,)):
                name = _name([axis.key for axis in axes], setting, seed)
                runs.append(
                    Planned(name, setting, seed, evolve(first, seed=seed), out / name, out / "configs" / f"{name}.toml")
                )
        sweep = cls(out, tuple(runs))
        for run in sweep.runs:
            _require_same(run)
        sweep._note_configs()
        return sweep

    def train(self, run: Planned, watcher: Watcher | None = None) -> None:
        """Bring one run to its end, and rewrite sweep.json. Raises Interrupted after Ctrl-C, with the run saved.

        One that diverges has come to its end too: the watcher is told, and the sweep may go on.
        """
        try:
            if run.state == "new":
                train(run.experiment, run.folder, watcher=watcher)
            elif run.state == "begun":
                train(load(run.folder / "config.toml"), run.folder, resume=True, watcher=watcher)
        except Diverged as error:
            RunFolder(run.folder).note({"diverged": str(error)})
            if watcher is not None:
                watcher.note(f"{run.name} has diverged, and its setting will not be chosen: {error}")
        self._write()

    def outcome(self) -> Outcome:
        """The figures of all runs that ended. Raises MtlError where they can't be compared."""
        ended = [run for run in self.runs if run.state in ENDED]
        metrics = {_judged_by(run.folder) for run in ended}
        if len(metrics) > 1:
            names = ", ".join(sorted(name for name, _ in metrics))
            raise MtlError(f"{self.out}: the runs are judged by different metrics ({names}): set train.best")
        metric, higher = next(iter(metrics), ("", True))
        settings = []
        for setting in dict.fromkeys(run.setting for run in self.runs):
            figures = [_figure(run, metric) for run in ended if run.setting == setting]
            settings.append(Setting(_values(setting), tuple(figures)))
        done = len(ended) == len(self.runs)
        return Outcome(metric, higher, tuple(settings), _best(settings, higher) if done else None)

    def choose(self) -> tuple[Outcome, Path]:
        """The figures, and the TOML of the best setting, just written. Raises MtlError where no setting came to a figure."""
        found = self._write()
        if found.chosen is None:
            raise MtlError(
                f"{self.out}: no setting has a finite {found.metric} for every seed: there is nothing to choose"
            )
        file = self.out / "chosen.toml"
        with said(file):
            write_whole(file, _chosen_toml(self.out, found, found.chosen).encode())
        return found, file

    def _write(self) -> Outcome:
        found = self.outcome()
        with said(self.out):
            write_whole(self.out / "sweep.json", json.dumps(found.as_json(), indent=2).encode())
        return found

    def _note_configs(self) -> None:
        with said(self.out):
            for run in self.runs:
                run.config.parent.mkdir(parents=True, exist_ok=True)
                if run.state == "new":
                    write_whole(run.config, dump(run.experiment).encode())


# ---------------------------------------------------------------------------------------------------- before the runs


def _require_axes(axes: Sequence[Axis]) -> None:
    keys = [axis.key for axis in axes]
    if not axes:
        raise MtlError("a sweep needs --over KEY=VALUE,VALUE")
    if "seed" in keys:
        raise MtlError("seeds are no setting to choose among: give them by --seeds")
    for key in keys:
        if keys.count(key) > 1:
            raise MtlError(f"--over {key} is given twice: list all its values in one")


def _loaded(config: Path, overrides: Sequence[str], setting: Sequence[str], plugin_files: Sequence[Path]) -> Experiment:
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


def _require_choice(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
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
                f"{_over(setting)} is the same experiment as {_over(first)}: leave one of them out "
                "(a weight of 0 takes its table out, with all its other keys)"
            )


def _require_comparable(experiments: Mapping[tuple[str, ...], Experiment]) -> None:
    """One figure for all, that does not depend on what is swept."""
    judges = {_judge(experiment): setting for setting, experiment in experiments.items()}
    if len(judges) > 1:
        told = "; ".join(f"{_over(setting)}: {judge}" for judge, setting in judges.items())
        raise MtlError(
            f"the settings are judged by different metrics ({told}): name one that all of them have by train.best"
        )
    keys = (key for setting in experiments for key in _values(setting))
    factor = next((key for key in keys if key.startswith("pretext.") and key.endswith(".weight")), None)
    if LOSS in judges and factor:
        raise MtlError(
            f"without tasks the runs are judged by their loss, and {factor} is a factor of it: "
            "name a figure that does not depend on it by train.best (an [observer.<label>] gives some)"
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
        raise MtlError(f"{_over(setting)}: {error}") from error


def _require_validation(experiments: Sequence[Experiment]) -> None:
    """A share of train, or a split that a source brings along. Such a source is indexed; no picture is read."""
    seen: list[DataEntry] = []
    for experiment in experiments:
        entries = [] if experiment.input.validation > 0 else list(experiment.data.values())
        if not entries or all(entry in seen for entry in entries):
            continue
        seen += entries
        plain_data = {k: evolve(entry, exclude_duplicates="none") for k, entry in experiment.data.items()}
        plainly = evolve(experiment, data=plain_data)
        if not any("validation" in open_source(plainly, label).split for label in plain_data):
            raise MtlError(f"input.validation = 0: a setting is chosen on the validation split: {VALIDATION}")


def _over(setting: Sequence[str]) -> str:
    return " ".join(f"--over {override}" for override in setting)


def _require_same(run: Planned) -> None:
    """Was what lies in its folder begun with the same configuration?"""
    if run.state == "new":
        return
    if not run.config.exists():
        raise MtlError(f"{run.folder} holds a run that this sweep did not begin: choose another --out")
    again = f"bring it back, or choose another --out (or remove {run.folder} and {run.config})"
    try:
        before = dump(load(run.config)).splitlines()
    except MtlError as error:
        raise MtlError(f"{run.folder} was begun with another configuration: {again}\n  {error}") from error
    now = dump(run.experiment).splitlines()
    if before != now:
        changes = [line.rstrip() for line in ndiff(before, now) if line[:1] in "+-"]
        shown = "\n  ".join(changes[:DIFFERENCES] + ["..."] * (len(changes) > DIFFERENCES))
        raise MtlError(
            f"{run.folder} was begun with another configuration (-), not with this one (+): {again}\n  {shown}"
        )


def _name(keys: Sequence[str], setting: Sequence[str], seed: int) -> str:
    """A folder's name that does not depend on the other runs: weight=0.3_seed=1."""
    last = [key.rpartition(".")[2] for key in keys]
    parts = []
    for key, short, override in zip(keys, last, setting):
        typed = override.partition("=")[2]
        legal = re.sub(r"[^A-Za-z0-9.+-]+", "-", typed).strip("-")[:LONGEST]
        unique = (
            "" if legal == typed else "-" * bool(legal) + hashlib.blake2b(typed.encode(), digest_size=3).hexdigest()
        )
        shown = short if last.count(short) == 1 else re.sub(r"[^A-Za-z0-9._-]+", "-", key)
        parts.append(f"{shown}={legal}{unique}")
    return "_".join([*parts, f"seed={seed}"])


def _parted(text: str) -> Iterator[str]:
    """The values between the commas that stand outside of brackets and quotes."""
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and (quote == "'" or text[i - 1] != "\\") else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:i].strip()
            start = i + 1
    yield text[start:].strip()


# ---------------------------------------------------------------------------------------------------- after the runs


def _values(setting: Sequence[str]) -> dict[str, Any]:
    found = {}
    for override in setting:
        path, value = parse_override(override)
        found[".".join(path)] = plain(value)
    return found


@functools.cache
def _judged_by(run: Path) -> tuple[str, bool]:
    """A run's main metric, and whether more of it is better: only a resolved configuration knows (its classes)."""
    experiment = load(run / "config.toml")
    name = best_by(experiment)
    return name, directions(experiment)[name]


def _figure(run: Planned, metric: str) -> Figure:
    folder = RunFolder(run.folder)
    facts = folder.facts()
    if run.state == "diverged":
        last: dict[str, Any] = next((row for row in reversed(folder.rows()) if "cpu_s" in row), {})
        return Figure(run.name, run.seed, math.nan, {}, last.get("step", 0), last.get("cpu_s", 0.0), diverged=True)
    validation = facts.get("validation", {})
    if metric not in validation:
        raise MtlError(
            f"{run.folder}: there is no {metric!r} on the validation split, by which a setting is chosen: {VALIDATION}"
        )
    return Figure(run.name, run.seed, float(validation[metric]), validation, facts["steps"], facts["cpu_s"])


def _best(settings: Sequence[Setting], higher: bool) -> Setting | None:
    """The best mean; of equal ones the first."""
    known = [setting for setting in settings if math.isfinite(setting.mean)]
    return max(known, key=lambda s: s.mean if higher else -s.mean, default=None)


def _chosen_toml(out: Path, found: Outcome, chosen: Setting) -> str:
    """The resolved configuration of the chosen setting's first run, with its one-file plugins as seen from `out`."""
    experiment = load(out / chosen.figures[0].run / "config.toml")
    plugins = tuple(os.path.relpath(plugin, out.absolute()) for plugin in experiment.plugins)
    values = ", ".join(f"{key} = {value!r}" for key, value in chosen.values.items())
    spread = f", sd {chosen.sd:.4g}" if chosen.n > 1 else ""
    told = f"# chosen by mtl sweep: {values}; validation {found.metric} {chosen.mean:.4g} (n = {chosen.n}{spread})"
    return f"{told}\n{dump(evolve(experiment, plugins=plugins))}"


def _setting_json(setting: Setting) -> dict[str, Any]:
    runs = [
        {
            "run": f.run,
            "seed": f.seed,
            "value": _finite(f.value),
            "validation": {name: _finite(value) for name, value in f.validation.items()},
            "steps": f.steps,
            "cpu_s": f.cpu_s,
            "diverged": f.diverged,
        }
        for f in setting.figures
    ]
    return {
        "values": setting.values,
        "n": setting.n,
        "mean": _finite(setting.mean),
        "sd": _finite(setting.sd),
        "runs": runs,
    }


def _finite(value: float) -> float | None:
    """JSON knows no nan."""
    return value if math.isfinite(value) else None
