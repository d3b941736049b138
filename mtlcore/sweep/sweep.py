"""The plan of a sweep: its runs, one after another, and the choice at the end."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from ..api import train
from ..callbacks.progress import ProgressReporter
from ..config import dump, load
from ..errors import MtlError
from ..files import to_json, write_atomically, write_errors_as_mtl_error
from ..runs import RunFolder
from ..training.record import Diverged
from .axes import Axis, folder_name, values_of
from .outcome import Outcome, Setting, best_of, main_metric_of, score_of
from .planned import ENDED, Planned
from .validation import load_setting, require_axes, require_same_config, require_settings


@frozen
class Sweep:
    """All runs of a sweep. Call `train` for each of `runs`, in any order, then `choose`.

    out: the folder of the sweep.
    """

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
        """Load the experiment of every run and record it below `out`. Nothing is trained yet.

        seeds: default: the seed of the configuration.
        Raises MtlError on
        - an unknown key or a wrong value, as any configuration does;
        - settings that can't be compared, or that are the same experiment;
        - a weighting that can't be built, or a missing validation split;
        - runs in `out` that were started with another configuration.
        """
        require_axes(axes)
        settings = list(itertools.product(*(axis.overrides for axis in axes)))
        experiments = {
            setting: load_setting(config, overrides, setting, plugin_files) for setting in settings
        }
        require_settings(experiments)

        keys = [axis.key for axis in axes]
        runs = []
        for setting, experiment in experiments.items():
            # dict.fromkeys drops repeated seeds and keeps their order.
            for seed in dict.fromkeys(seeds or (experiment.seed,)):
                name = folder_name(keys, setting, seed)
                run = Planned(
                    name=name,
                    setting=setting,
                    seed=seed,
                    experiment=evolve(experiment, seed=seed),
                    folder=out / name,
                    config=out / "configs" / f"{name}.toml",
                )
                runs.append(run)
        for run in runs:
            require_same_config(run)

        sweep = cls(out, tuple(runs))
        sweep._write_configs()
        return sweep

    def train(self, run: Planned, reporter: ProgressReporter | None = None) -> None:
        """Start or resume one run, and rewrite sweep.json. A run that ended is not trained.

        A run that diverges has ended, too: it is recorded and reported, and the sweep can continue.
        Raises Interrupted after Ctrl-C, with the run saved.
        """
        try:
            if run.state == "new":
                train(run.config, run.folder, progress=reporter or False)
            elif run.state == "interrupted":
                train(None, run.folder, resume=True, progress=reporter or False)
        except Diverged as error:
            RunFolder(run.folder).update_provenance({"diverged": str(error)})
            if reporter is not None:
                reporter.note(f"{run.name} has diverged, so its setting can't be chosen: {error}")
        self._write_outcome()

    def outcome(self) -> Outcome:
        """The results of all runs that ended. Raises MtlError where they can't be compared."""
        ended = [run for run in self.runs if run.state in ENDED]
        metrics = {main_metric_of(run.folder) for run in ended}
        if len(metrics) > 1:
            names = ", ".join(sorted(name for name, _ in metrics))
            raise MtlError(
                f"{self.out}: the runs have different main metrics ({names}): set train.best"
            )
        metric, higher = next(iter(metrics), ("", True))

        settings = []
        for setting in dict.fromkeys(run.setting for run in self.runs):
            scores = [score_of(run, metric) for run in ended if run.setting == setting]
            settings.append(Setting(values_of(setting), tuple(scores)))
        chosen = best_of(settings, higher) if len(ended) == len(self.runs) else None
        return Outcome(metric, higher, tuple(settings), chosen)

    def choose(self) -> tuple[Outcome, Path]:
        """Write chosen.toml, the best setting -> the results and that file.

        Raises MtlError where no setting has a finite mean.
        """
        outcome = self._write_outcome()
        if outcome.chosen is None:
            raise MtlError(
                f"{self.out}: no setting has a finite {outcome.metric} for every seed: "
                "there is nothing to choose"
            )
        file = self.out / "chosen.toml"
        with write_errors_as_mtl_error(file):
            write_atomically(file, _chosen_toml(self.out, outcome, outcome.chosen).encode())
        return outcome, file

    def _write_outcome(self) -> Outcome:
        outcome = self.outcome()
        text = to_json(outcome.as_json(), indent=2)
        with write_errors_as_mtl_error(self.out):
            write_atomically(self.out / "sweep.json", text.encode())
        return outcome

    def _write_configs(self) -> None:
        with write_errors_as_mtl_error(self.out):
            for run in self.runs:
                run.config.parent.mkdir(parents=True, exist_ok=True)
                if run.state == "new":
                    write_atomically(run.config, dump(run.experiment).encode())


def _chosen_toml(out: Path, outcome: Outcome, chosen: Setting) -> str:
    """The resolved configuration of the chosen setting's first run, under a comment.

    The paths of one-file plugins are relative to `out`, where the file is written.
    """
    experiment = load(out / chosen.scores[0].run / "config.toml")
    plugins = tuple(os.path.relpath(plugin, out.absolute()) for plugin in experiment.plugins)
    values = ", ".join(f"{key} = {value!r}" for key, value in chosen.values.items())
    spread = f", sd {chosen.sd:.4g}" if chosen.n > 1 else ""
    result = f"validation {outcome.metric} {chosen.mean:.4g} (n = {chosen.n}{spread})"
    comment = f"# chosen by mtl sweep: {values}; {result}"
    return f"{comment}\n{dump(evolve(experiment, plugins=plugins))}"
