"""The plan of a sweep, its runs one after the other, and what is chosen in the end."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve, frozen

from ..callbacks.progress import ProgressReporter
from ..config import dump, load
from ..errors import MtlError
from ..runs import RunFolder, write_errors_as_mtl_error, write_whole
from ..train.record import Diverged
from ..train.trainer import train
from .axes import Axis, folder_name, values_of
from .outcome import Outcome, Setting, best_of, figure_of, judged_by
from .planned import ENDED, Planned
from .validation import loaded, require_axes, require_choice, require_same


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
        require_axes(axes)
        settings = list(itertools.product(*(axis.overrides for axis in axes)))
        experiments = {
            setting: loaded(config, overrides, setting, plugin_files) for setting in settings
        }
        require_choice(experiments)
        runs = []
        for setting, first in experiments.items():
            for seed in dict.fromkeys(seeds or (first.seed,)):
                name = folder_name([axis.key for axis in axes], setting, seed)
                runs.append(
                    Planned(
                        name,
                        setting,
                        seed,
                        evolve(first, seed=seed),
                        out / name,
                        out / "configs" / f"{name}.toml",
                    )
                )
        sweep = cls(out, tuple(runs))
        for run in sweep.runs:
            require_same(run)
        sweep._note_configs()
        return sweep

    def train(self, run: Planned, reporter: ProgressReporter | None = None) -> None:
        """Bring one run to its end, and rewrite sweep.json. Raises Interrupted after Ctrl-C, with the run saved.

        One that diverges has come to its end too: the reporter is told, and the sweep may go on.
        """
        try:
            if run.state == "new":
                train(run.experiment, run.folder, reporter=reporter)
            elif run.state == "begun":
                train(load(run.folder / "config.toml"), run.folder, resume=True, reporter=reporter)
        except Diverged as error:
            RunFolder(run.folder).note({"diverged": str(error)})
            if reporter is not None:
                reporter.note(
                    f"{run.name} has diverged, and its setting will not be chosen: {error}"
                )
        self._write()

    def outcome(self) -> Outcome:
        """The figures of all runs that ended. Raises MtlError where they can't be compared."""
        ended = [run for run in self.runs if run.state in ENDED]
        metrics = {judged_by(run.folder) for run in ended}
        if len(metrics) > 1:
            names = ", ".join(sorted(name for name, _ in metrics))
            raise MtlError(
                f"{self.out}: the runs are judged by different metrics ({names}): set train.best"
            )
        metric, higher = next(iter(metrics), ("", True))
        settings = []
        for setting in dict.fromkeys(run.setting for run in self.runs):
            figures = [figure_of(run, metric) for run in ended if run.setting == setting]
            settings.append(Setting(values_of(setting), tuple(figures)))
        done = len(ended) == len(self.runs)
        return Outcome(metric, higher, tuple(settings), best_of(settings, higher) if done else None)

    def choose(self) -> tuple[Outcome, Path]:
        """The figures, and the TOML of the best setting, just written. Raises MtlError where no setting came to a figure."""
        found = self._write()
        if found.chosen is None:
            raise MtlError(
                f"{self.out}: no setting has a finite {found.metric} for every seed: there is nothing to choose"
            )
        file = self.out / "chosen.toml"
        with write_errors_as_mtl_error(file):
            write_whole(file, _chosen_toml(self.out, found, found.chosen).encode())
        return found, file

    def _write(self) -> Outcome:
        found = self.outcome()
        with write_errors_as_mtl_error(self.out):
            write_whole(self.out / "sweep.json", json.dumps(found.as_json(), indent=2).encode())
        return found

    def _note_configs(self) -> None:
        with write_errors_as_mtl_error(self.out):
            for run in self.runs:
                run.config.parent.mkdir(parents=True, exist_ok=True)
                if run.state == "new":
                    write_whole(run.config, dump(run.experiment).encode())


def _chosen_toml(out: Path, found: Outcome, chosen: Setting) -> str:
    """The resolved configuration of the chosen setting's first run, with its one-file plugins as seen from `out`."""
    experiment = load(out / chosen.figures[0].run / "config.toml")
    plugins = tuple(os.path.relpath(plugin, out.absolute()) for plugin in experiment.plugins)
    values = ", ".join(f"{key} = {value!r}" for key, value in chosen.values.items())
    spread = f", sd {chosen.sd:.4g}" if chosen.n > 1 else ""
    told = f"# chosen by mtl sweep: {values}; validation {found.metric} {chosen.mean:.4g} (n = {chosen.n}{spread})"
    return f"{told}\n{dump(evolve(experiment, plugins=plugins))}"
