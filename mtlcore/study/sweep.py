"""A sweep, the smallest study: some keys of one experiment, each with several values.

    DIR/runs/, DIR/runs.jsonl   as of any study
    DIR/sweep.json              all metrics and the best setting; rewritten at the end
    DIR/chosen.toml             the setting with the best mean, a complete experiment

A setting is an arm, and the first one is the baseline. The best mean is that of the main metric
(`train.best`) at the last step ON THE VALIDATION SPLIT, over the seeds. The test split is not
read. A weight of 0 removes its table, so the run without it is a setting like the others. A setting
with a run that diverged is never the best.

The best of several means is not yet better: `Outcome.verdicts` says what the seeds decide.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from attrs import evolve, frozen

from ..config import dump, load
from ..errors import MtlError
from ..files import finite, to_json, write_atomically, write_errors_as_mtl_error
from .axes import Axis, arm_name, as_options, values_of
from .checks import prepared
from .definition import Arm, Definition
from .identity import fingerprint
from .results import Row, key_of, metric_in, name_of
from .statistics import Comparison, compare_arms
from .study import Study


@frozen
class Setting:
    """The runs of one setting that ended. values: key -> value, as TOML reads it."""

    arm: str
    values: dict[str, object]
    rows: tuple[Row, ...]
    metric: str

    @property
    def by_seed(self) -> dict[int, float]:
        """Seed -> main metric; nan where the run diverged."""
        return {row["seed"]: metric_in(row, "validation", self.metric) for row in self.rows}

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.rows)

    @property
    def diverged(self) -> int:
        """The number of runs that diverged."""
        return sum("failed" in row for row in self.rows)

    @property
    def mean(self) -> float:
        """The mean of the main metric over the seeds; nan without runs, or where one is nan."""
        return statistics.fmean(self.by_seed.values()) if self.rows else math.nan

    @property
    def sd(self) -> float:
        """The sample standard deviation (n - 1); nan for a single run."""
        values = list(self.by_seed.values())
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return math.nan
        return statistics.stdev(values)

    def as_json(self) -> dict[str, object]:
        """One entry of "settings" in sweep.json."""
        runs = [
            {
                "run": name_of(key_of(row)),
                "seed": row["seed"],
                "value": metric_in(row, "validation", self.metric),
                "validation": row["validation"],
                "steps": row["steps"],
                "cpu_s": row["cpu_s"],
                "diverged": "failed" in row,
            }
            for row in self.rows
        ]
        values = {"values": self.values, "n": self.n, "mean": self.mean, "sd": self.sd}
        result: dict[str, object] = finite({**values, "runs": runs})
        return result


@frozen
class Outcome:
    """The results of a sweep so far.

    metric: the main metric; "" before the first run has ended.
    chosen: the setting with the best mean; None before all runs have ended.
    verdicts: arm -> its comparison with the first setting, corrected for all of them. Empty
        without scipy.
    """

    metric: str
    higher_is_better: bool
    settings: tuple[Setting, ...]
    chosen: Setting | None
    verdicts: Mapping[str, Comparison]

    def as_json(self) -> dict[str, object]:
        """The content of sweep.json and of `mtl sweep --json`."""
        return {
            "split": "validation",
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "settings": [self._setting(setting) for setting in self.settings],
            "chosen": self.chosen.values if self.chosen else None,
        }

    def _setting(self, setting: Setting) -> dict[str, object]:
        found = self.verdicts.get(setting.arm)
        verdict = None
        if found is not None:
            interval = [found.low, found.high]
            difference = found.difference.mean if found.difference.n else None
            verdict = {"verdict": found.verdict, "difference": difference, "interval": interval}
        return {**setting.as_json(), "over_first": verdict}


def plan_sweep(
    config: Path,
    axes: Sequence[Axis],
    out: Path,
    *,
    seeds: Sequence[int] = (),
    overrides: Sequence[str] = (),
    plugin_files: Sequence[Path] = (),
) -> Study:
    """Return the study of a sweep. Nothing is trained or written.

    seeds: default: the seed of the configuration.
    Raises MtlError on everything that `checks.prepared` lists, with --over for the values.
    """
    _require_axes(axes)
    keys = [axis.key for axis in axes]
    # Without seeds, the seed of the overrides is used below.
    shared = [word for word in overrides if seeds or word.partition("=")[0].strip() != "seed"]
    arms: dict[str, Arm] = {}
    options: dict[str, Sequence[str]] = {}
    for setting in itertools.product(*(axis.overrides for axis in axes)):
        name = arm_name(keys, setting)
        arms[name] = Arm(name, set=(*shared, *setting))
        options[name] = setting
    definition = Definition(
        config=str(config.absolute()),
        name=out.name,
        plugins=tuple(str(Path(file).absolute()) for file in plugin_files),
        arms=arms,
        baseline=next(iter(arms)),
        seeds=tuple(dict.fromkeys(seeds)) or (0,),
        differ=("encoder", "data", "input", "steps"),
    )
    try:
        definition = prepared(definition)
    except MtlError as error:
        raise MtlError(_with_options(str(error), options)) from error.__cause__
    if not seeds:
        seed = load(config, overrides, plugin_files).seed
        definition = evolve(definition, seeds=(seed,))
    return Study(definition, out)


def _require_axes(axes: Sequence[Axis]) -> None:
    """Raise MtlError where there is no axis, where a key has two, and on the key `seed`."""
    keys = [axis.key for axis in axes]
    if not axes:
        raise MtlError("a sweep needs --over KEY=VALUE,VALUE")
    if "seed" in keys:
        raise MtlError("seed is not a setting to choose: set the seeds with --seeds")
    for key in keys:
        if keys.count(key) > 1:
            raise MtlError(f"--over {key} appears twice: list all its values in one option")


def _with_options(message: str, options: Mapping[str, Sequence[str]]) -> str:
    """Return a message about arms in the words of `mtl sweep`."""
    for name, setting in sorted(options.items(), key=lambda item: -len(item[0])):
        message = message.replace(f"arms.{name}", as_options(setting))
        for override in setting:
            message = message.replace(f"--set {override}", f"--over {override}")
    return message


def outcome(study: Study, swept: int) -> Outcome:
    """Return the results of all runs that ended. swept: the number of swept keys."""
    plan = study.workspace.plan()
    results = plan.results
    metric, higher = results.metric, results.higher_is_better()
    settings = []
    for arm in study.definition.arms.values():
        rows = [row for run in plan.main(arm, study.definition.seeds) if (row := results.row(run))]
        values = values_of(arm.set[len(arm.set) - swept :])
        settings.append(Setting(arm.name, values, tuple(rows), metric))
    by_arm = {setting.arm: setting.by_seed for setting in settings}
    compared: Sequence[Comparison] = ()
    if find_spec("scipy") is not None:  # an extra: a sweep works without it
        compared = compare_arms(by_arm, study.definition.baseline, higher)
    chosen = None if plan.left() else _best_of(settings, higher)
    return Outcome(
        metric, higher, tuple(settings), chosen, {found.arm: found for found in compared}
    )


def _best_of(settings: Sequence[Setting], higher: bool) -> Setting | None:
    """The setting with the best finite mean; the first of equal ones; None without any."""
    known = [setting for setting in settings if math.isfinite(setting.mean)]
    return max(known, key=lambda s: s.mean if higher else -s.mean, default=None)


def write_outcome(study: Study, swept: int) -> tuple[Outcome, Path]:
    """Write sweep.json and chosen.toml -> the results and the latter. swept: as in `outcome`.

    Raises MtlError where no setting has a finite mean.
    """
    found, out = outcome(study, swept), study.folder
    with write_errors_as_mtl_error(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "sweep.json", to_json(found.as_json(), indent=2).encode())
    if found.chosen is None:
        raise MtlError(
            f"{out}: no setting has a finite {found.metric} for every seed: "
            "there is nothing to choose"
        )
    file = out / "chosen.toml"
    with write_errors_as_mtl_error(file):
        write_atomically(file, _chosen_toml(study, found, found.chosen).encode())
    return found, file


def _chosen_toml(study: Study, found: Outcome, chosen: Setting) -> str:
    """The resolved configuration of the chosen setting's first run, under a comment.

    The paths of one-file plugins are relative to the sweep's folder, where the file is written.
    """
    run = study.workspace.work / name_of(key_of(chosen.rows[0]))
    if fingerprint(run / "config.toml") != chosen.rows[0]["fingerprint"]:
        raise MtlError(
            f"{run} has other settings than its row in {study.workspace.file}: it was trained "
            "again after the sweep was edited: restore its folder, or remove the row"
        )
    experiment = load(run / "config.toml")
    folder = study.folder.absolute()
    plugins = tuple(os.path.relpath(plugin, folder) for plugin in experiment.plugins)
    values = ", ".join(f"{key} = {value!r}" for key, value in chosen.values.items())
    spread = f", sd {chosen.sd:.4g}" if chosen.n > 1 else ""
    result = f"validation {found.metric} {chosen.mean:.4g} (n = {chosen.n}{spread})"
    comment = f"# the best mean of mtl sweep: {values}; {result}"
    return f"{comment}\n{dump(evolve(experiment, plugins=plugins))}"
