"""A sweep: one experiment with several values of one or more keys, each over several seeds; the best setting is written as TOML.

    DIR/<setting>_seed=<n>/        a run like any other, one for each setting and seed
    DIR/configs/<the same>.toml    what it was begun with: a run that was begun otherwise is never gone on with
    DIR/sweep.json                 every figure, and what was chosen; rewritten after each run
    DIR/chosen.toml                the chosen setting, complete: `mtl train DIR/chosen.toml`

Runs follow one another. Those that are finished are read, those that were interrupted go on, the others begin: the same command
again is all it takes, also with further values or seeds. A setting is chosen by the mean of the run's main metric (`train.best`)
at the last step ON THE VALIDATION SPLIT; the test split is not read. A weight of 0 takes its table out of the experiment: the run
without it is a setting like the others.
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
from collections.abc import Iterator, Sequence
from difflib import ndiff
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, frozen

from .config import dump, load
from .config.overrides import parse_override, plain
from .errors import MtlError
from .experiment import Experiment
from .measure import main_metric
from .runs import RunFolder, said, write_whole
from .train.loop import train
from .train.watch import Watcher

State = Literal["finished", "begun", "new"]
LONGEST = 40  # letters of a value in a folder's name
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
        return "finished" if run.facts().get("finished") else "begun"


@frozen
class Figure:
    """One finished run. value: of the main metric; nan where it came to nothing. validation: all figures on that split."""

    run: str
    seed: int
    value: float
    validation: dict[str, float]
    steps: int
    cpu_s: float


@frozen
class Setting:
    """The finished runs of one setting. values: by key, as TOML understands them."""

    values: dict[str, Any]
    figures: tuple[Figure, ...]

    @property
    def n(self) -> int:
        return len(self.figures)

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
    """Where a sweep stands. metric: "" before the first run is finished. chosen: the best setting, once all are finished."""

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

        seeds: default: the configuration's own. Raises MtlError: the configuration's messages about a key or a value, and where
        `out` holds runs that were begun with another configuration.
        """
        _require_axes(axes)
        runs = []
        for setting in itertools.product(*(axis.overrides for axis in axes)):
            first = _loaded(config, overrides, setting, plugin_files)
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
        """Bring one run to its end, and rewrite sweep.json. Raises Interrupted after Ctrl-C, with the run saved."""
        if run.state == "new":
            train(run.experiment, run.folder, watcher=watcher)
        elif run.state == "begun":
            train(load(run.folder / "config.toml"), run.folder, resume=True, watcher=watcher)
        self._write()

    def outcome(self) -> Outcome:
        """The figures of all finished runs. Raises MtlError where they can't be compared."""
        finished = [run for run in self.runs if run.state == "finished"]
        metrics = {_judged_by(run.folder) for run in finished}
        if len(metrics) > 1:
            names = ", ".join(sorted(name for name, _ in metrics))
            raise MtlError(f"{self.out}: the runs are judged by different metrics ({names}): set train.best")
        metric, higher = next(iter(metrics), ("", True))
        self._require_comparable(metric)
        settings = []
        for setting in dict.fromkeys(run.setting for run in self.runs):
            figures = [_figure(run, metric) for run in finished if run.setting == setting]
            settings.append(Setting(_values(setting), tuple(figures)))
        done = len(finished) == len(self.runs)
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

    def _require_comparable(self, metric: str) -> None:
        weights = [key for run in self.runs for key in _values(run.setting) if key.endswith(".weight")]
        if metric == "loss" and weights:
            raise MtlError(
                f"without tasks the runs are judged by their loss, and {weights[0]} is a factor of it: "
                "name a figure that does not depend on it by train.best"
            )


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
    """A finished run's main metric, and whether more of it is better: only a resolved configuration knows (its classes)."""
    return main_metric(load(run / "config.toml"))


def _figure(run: Planned, metric: str) -> Figure:
    facts = RunFolder(run.folder).facts()
    validation = facts.get("validation", {})
    if metric not in validation:
        raise MtlError(
            f"{run.folder}: there is no {metric!r} on the validation split, by which a setting is chosen: "
            "set input.validation to the share of the training rows to keep for it, such as 0.1"
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
