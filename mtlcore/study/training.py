"""One run of a study: train or resume it, and describe it in one row.

A run that diverges, or that fails, has a row, too: it says why.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen

from ..callbacks.progress import ProgressReporter
from ..checkpoints import Which
from ..config import dump, load
from ..config.experiment import Experiment
from ..config.same import changed_keys
from ..errors import MtlError, nearest
from ..evaluation.best import best_by, directions
from ..evaluation.evaluate import evaluate
from ..evaluation.groups import without_groups
from ..files import write_atomically, write_errors_as_mtl_error
from ..model.views import NoTargetError
from ..runs import RunFolder
from ..training.one_at_a_time import only_training
from ..training.record import Diverged
from ..training.result import Result
from ..training.stop import Interrupted
from ..training.trainer import train
from .identity import device, fingerprint, weights_hash, without_folders
from .results import DECIMALS, PRETRAINING, Row, Run
from .workspace import Workspace, set_aside

FORMAT = 3
"""Of rows that are written now; benchmarks/hmtl/old_keys.py reads the older ones."""


@frozen
class Trainee:
    """Trains the runs of a study.

    reporter: shows their progress. say: shows a line to the user.
    """

    workspace: Workspace
    reporter: ProgressReporter | None = None
    say: Callable[[str], object] = print

    def train_and_record(self, run: Run) -> Row:
        """Train or resume a run, append its row to the file, and return the row.

        A run that diverges, and a control that its pretext can't have, have ended: their row says
        why. Any other error is recorded, and raised.
        """
        # The file of a frozen study has finished runs alone.
        row = self.train(run) if self.workspace.frozen else self._train_or_fail(run)
        self.workspace.append(row)
        return row

    def _train_or_fail(self, run: Run) -> Row:
        try:
            return self.train(run)
        except Interrupted:
            raise
        except (Diverged, NoTargetError) as error:
            # The same settings would end in the same way.
            diverged = isinstance(error, Diverged)
            return self._failed(run, error) | {"ended": True, "diverged": diverged}
        except Exception as error:
            self.workspace.append(self._failed(run, error))
            raise

    def train(self, run: Run) -> Row:
        """Train or resume a run, and return its row."""
        # Before the training: the working copy of the code may change meanwhile.
        code = self.workspace.site.provenance()
        init_from = self._pretrain(run)
        steps = run.steps - _pretraining_steps(run)
        overrides = (*run.overrides, *init_from, f"train.steps={steps}")
        experiment, out = experiment_of(self.workspace, run, overrides), self._folder(run)
        result = self._train_part(experiment, out, self._resumes(experiment, out))
        return self._row(run, result) | code

    def _folder(self, run: Run) -> Path:
        return self.workspace.work / run.name

    def _pretrain(self, run: Run) -> tuple[str, ...]:
        """Train the part on pretexts alone, if the arm has one.

        Return the settings that make the second part start from its weights.
        """
        pretraining = run.arm.pretraining
        if pretraining is None:
            return ()
        out = self.workspace.work / f"{run.name}{PRETRAINING}"
        overrides = (*run.overrides, *pretraining.set, f"train.steps={_pretraining_steps(run)}")
        experiment = evolve(experiment_of(self.workspace, run, overrides), tasks={})
        resume = self._resumes(experiment, out)
        second = self._folder(run)
        if not resume and second.exists():  # it started from other weights
            self._set_aside(second, "its pre-training")
        self._train_part(experiment, out, resume)
        return (f'train.init_from="{out}"',)

    def _train_part(self, experiment: Experiment, out: Path, resume: bool) -> Result:
        with only_training(out):
            return train(experiment, out, resume=resume, reporter=self.reporter)

    def _resumes(self, experiment: Experiment, out: Path) -> bool:
        """Save the configuration of a run beside its folder; return whether the folder has the run.

        A folder with another configuration is of the study before it was edited. It is renamed, or
        an error if the study must not change.
        """
        file = out.with_name(f"{out.name}.toml")
        config = dump(experiment)
        resume = (out / "config.toml").exists()
        if resume and not file.exists():
            raise MtlError(f"{out} holds a run that this study did not start: remove that folder")
        if resume:
            started = file.read_text(encoding="utf-8")
            if started == config:
                return True
            if _without_paths(started) != _without_paths(config):
                self._set_aside(out, _changes(started, config))
                resume = False
        with write_errors_as_mtl_error(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, config.encode())
        return resume

    def _set_aside(self, out: Path, changes: str) -> None:
        """Rename a run folder that was started with another configuration, and its file."""
        if self.workspace.frozen:
            raise MtlError(
                f"{out} was started with another configuration ({out.name}.toml) than the protocol "
                "sets now: remove that folder, or choose another --work"
            )
        old = set_aside(out)
        self.say(f"{out.name} was started with other settings ({changes}): now {old}")

    # -------------------------------------------------------------------------------------- rows

    def _identity(self, run: Run) -> Row:
        return {
            "format": FORMAT,
            "protocol": self.workspace.definition.name,
            "stage": run.stage,
            "arm": run.arm.name,
            "trial": run.trial,
            "seed": run.seed,
            "steps": run.steps,
            "set": self.workspace.settings(run),
            "settings": self.workspace.settings_hash(run),
        }

    def _row(self, run: Run, result: Result) -> Row:
        folder = self._folder(run)
        pretraining = folder.with_name(f"{run.name}{PRETRAINING}")
        encoded, cpu_s = result.encoded, result.cpu_s
        configs = [folder / "config.toml"]
        if run.arm.pretraining is not None:
            used = last_compute(pretraining)
            encoded += used["encoded"]
            cpu_s += used["cpu_s"]
            configs.insert(0, pretraining / "config.toml")

        return {
            **self._identity(run),
            **self._metric(run, load(folder / "config.toml")),
            "encoded": encoded,
            "cpu_s": round(cpu_s, 1),
            **self._metrics(run, folder),
            "data": RunFolder.open(folder).provenance()["data_fingerprint"],
            "weights": weights_of(folder),
            "fingerprint": fingerprint(*configs),
            **_here(),
        }

    def _metric(self, run: Run, experiment: Experiment) -> Row:
        """Return the metric that compares the run, and its direction."""
        definition = self.workspace.definition
        known = directions(experiment)
        metric = definition.metric_of(run.stage) or best_by(experiment)
        if metric not in known:
            # The same text for all arms: the study stops at the second one.
            of_tasks = [name for name in known if name.partition("/")[0] in experiment.tasks]
            raise MtlError(f"metric = {metric!r}: no such metric; {nearest(metric, of_tasks)}")
        higher = known[metric]
        if run.stage in ("tune", "main") and definition.higher_is_better is not None:
            higher = definition.higher_is_better
        return {"metric": metric, "higher_is_better": higher}

    def _metrics(self, run: Run, folder: Path) -> Row:
        """Return the metrics of a run: on validation, and on test if the study says so."""
        if self.workspace.definition.test == "asked":
            return validation_metrics(folder)
        row = {"validation": measured(folder, "validation", "last")}
        if run.stage != "tune":  # tuning must not read the test split
            row["validation_best"] = measured(folder, "validation", "best")
            row["test"] = measured(folder, run.split, "last")
            row["test_best"] = measured(folder, run.split, "best")
        return row

    def _failed(self, run: Run, error: BaseException) -> Row:
        """Return the row of a run that has no result."""
        folder = self._folder(run)
        used: dict[str, Any] = {}
        metric: Row = {}
        if (folder / "config.toml").exists():
            used = last_compute(folder)
            with suppress(MtlError):
                metric = self._metric(run, load(folder / "config.toml"))
        reason = str(error) if isinstance(error, MtlError) else f"{type(error).__name__}: {error}"
        return {
            **self._identity(run),
            **metric,
            "failed": reason,
            "encoded": used.get("encoded", 0),
            "cpu_s": round(used.get("cpu_s", 0.0), 1),
            "validation": {},
            **_here(),
        }


def experiment_of(workspace: Workspace, run: Run, overrides: tuple[str, ...]) -> Experiment:
    """Return the experiment of a run with these overrides."""
    definition = workspace.definition
    settings = workspace.site.overrides(definition, run, overrides)
    plugins = [Path(plugin) for plugin in definition.plugins]
    return load(definition.base(run.config), settings, plugins)


def _changes(before: str, now: str) -> str:
    """Return the first keys that differ between two configurations."""
    try:
        old = tomllib.loads(before)
    except tomllib.TOMLDecodeError:
        return "its configuration is damaged"
    return "; ".join(changed_keys(tomllib.loads(now), old, "before", "now", resumable=True)[:3])


def _without_paths(config: str) -> str:
    """Return a configuration without folders. A plugin file is known by its hash, not by its path.

    `fingerprint` leaves out fewer paths: its hashes are in the rows.
    """
    return re.sub(r'"[^"\n]*(#sha256=)', r'"\1', without_folders(config))


def _pretraining_steps(run: Run) -> int:
    """Return the steps of the first part: at least one, and one is left for the second part."""
    pretraining = run.arm.pretraining
    if pretraining is None:
        return 0
    return min(max(round(run.steps * pretraining.share), 1), run.steps - 1)


def _here() -> Row:
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def weights_of(folder: Path) -> str:
    """Return the hash of the weights that a run predicts with, at its last step."""
    opened = RunFolder.open(folder)
    uses_ema = load(folder / "config.toml").train.ema > 0
    return weights_hash(opened.require().inference_weights(uses_ema=uses_ema))


def measured(folder: Path, split: str, which: Which) -> dict[str, float]:
    """Evaluate a run on a split; metrics by group ("name[group]") are left out."""
    return rounded(evaluate(folder, split=split, which=which).metrics)


def validation_metrics(folder: Path) -> Row:
    """Return the validation metrics that the run itself measured: at the last and the best step."""
    run = RunFolder.open(folder)
    row: Row = {"validation": rounded(run.provenance().get("validation", {}))}
    best = run.checkpoint("best")
    if best is None:
        return row
    if values := run.log.validation_at(best.step):
        row["validation_best"] = rounded(values)
    return row


def rounded(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the metrics with 6 decimals, without those of groups and those that are not finite."""
    found: dict[str, float] = {}
    for name, value in without_groups(metrics).items():
        if value is not None and math.isfinite(value):
            found[name] = round(value, DECIMALS)
    return found


def last_compute(folder: Path) -> dict[str, Any]:
    """Return the last row of a run's log that has its compute: `encoded` images and `cpu_s`."""
    for row in reversed(RunFolder.open(folder).log.rows()):
        if "cpu_s" in row:
            return row
    return {}
