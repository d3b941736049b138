"""One run of a protocol: train or resume it, evaluate it, and describe it in one JSON line.

Evaluation uses the weights of the last step and those of the best step on validation.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from filelock import FileLock, Timeout
from torch import Tensor

from mtlcore import MtlError
from mtlcore.checkpoints import Which
from mtlcore.config import dump, load
from mtlcore.config.experiment import Experiment
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.runs import RunFolder
from mtlcore.training.result import Result
from mtlcore.training.trainer import train

from . import lite0
from .old_keys import FORMAT, read_row
from .plan import Key, Plan, Results, Row, Run, key_of, name_of
from .protocol import Protocol

ROOT = Path(__file__).resolve().parent.parent.parent


@frozen
class Workspace:
    """The folders of a protocol.

    data: folder that contains the data sets.
    work: folder of the run folders.
    file: `runs.jsonl`, one line for each finished run.
    """

    protocol: Protocol
    data: Path
    work: Path
    file: Path

    # ------------------------------------------------------------------------------------- rows

    def rows(self) -> list[Row]:
        """Return the finished rows with today's key names.

        If a run has two rows, the first one counts.
        """
        if not self.file.exists():
            return []
        found: dict[Key, Row] = {}
        for line in self.file.read_text(encoding="utf-8").splitlines():
            # A line cut off by a crash is not JSON: its run is not finished.
            with suppress(json.JSONDecodeError):
                row = read_row(json.loads(line))
                found.setdefault(key_of(row), row)
        return list(found.values())

    def plan(self) -> Plan:
        """Return the plan that follows from the rows in the file now.

        Raises MtlError if a row was made with other settings than the protocol sets now.
        """
        plan = Plan(self.protocol, Results(self.rows(), self.protocol.metric))
        for row in plan.results.rows:
            key = key_of(row)
            settings = self.settings(plan.run(key))
            if row["set"] != settings:
                raise MtlError(
                    f"{self.file}: {name_of(key)} was made with {row['set']}, "
                    f"but the protocol now sets {settings}: a protocol that has been run must not "
                    "change, so give the changed one a new name (or a rehearsal another --work)"
                )
        return plan

    def settings(self, run: Run) -> list[str]:
        """Return the settings that the row of a run lists."""
        return [*run.overrides, *self.protocol.settings]

    def row(self, run: Run) -> Row | None:
        """Return the row of a run that is in the file now, or None."""
        return self.plan().results.row(run)

    # ---------------------------------------------------------------------------------- training

    @contextmanager
    def claimed(self, run: Run) -> Iterator[bool]:
        """Yield whether this process has the run to itself.

        The claim is a file lock: it ends with the process, even after a crash.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / f"{run.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def train_and_record(self, run: Run) -> Row:
        """Train or resume a run, append its row to the file, and return the row."""
        row = self.train(run)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(row).encode() + b"\n"
        with self.file.open("a+b") as lines:
            # If a crash has cut off the last line, start a new one.
            lines.seek(0)
            is_cut = lines.read()[-1:] not in (b"", b"\n")
            if is_cut:
                line = b"\n" + line
            lines.write(line)
        return row

    def train(self, run: Run) -> Row:
        """Train or resume a run, and return its row."""
        # Read the commit first: the working copy may change during the training.
        code = commit()
        init_from = self._pretrain(run)
        steps = run.steps - _pretraining_steps(run)
        overrides = (*run.overrides, *init_from, f"train.steps={steps}")
        result = self._train_part(run, overrides, self.work / run.name)
        return self._row(run, result) | {"commit": code}

    def _pretrain(self, run: Run) -> tuple[str, ...]:
        """Train the part on pretexts alone, if the arm has one.

        Return the settings that make the second part start from its weights.
        """
        pretraining = run.arm.pretraining
        if pretraining is None:
            return ()
        out = self.work / f"{run.name}-pretraining"
        overrides = (*run.overrides, *pretraining.set, f"train.steps={_pretraining_steps(run)}")
        self._train_part(run, overrides, out, supervised=False)
        return (f'train.init_from="{out}"',)

    def _train_part(
        self, run: Run, overrides: tuple[str, ...], out: Path, supervised: bool = True
    ) -> Result:
        settings = [lite0.with_weights_file(setting, self.work) for setting in overrides]
        experiment = load(self.protocol.base(run.config), [*settings, *self.machine_settings(run)])
        if not supervised:
            experiment = evolve(experiment, tasks={})
        resume = (out / "config.toml").exists()
        self._check_config(experiment, out, resume)
        return train(experiment, out, resume=resume)

    def _check_config(self, experiment: Experiment, out: Path, resume: bool) -> None:
        """Refuse to resume a run with another configuration than it was started with.

        The configuration of the start is saved beside the run folder.
        """
        file = out.with_name(f"{out.name}.toml")
        config = dump(experiment)
        if resume and file.exists():
            started = file.read_text(encoding="utf-8")
            if without_folders(started) != without_folders(config):
                raise MtlError(
                    f"{out} was started with another configuration ({file}) than the protocol sets "
                    "now: remove that folder, or choose another --work"
                )
        self.work.mkdir(parents=True, exist_ok=True)
        file.write_text(config, encoding="utf-8")

    def machine_settings(self, run: Run) -> list[str]:
        """Return the settings that a row does not list, and those of a rehearsal.

        Each dataset's root is below --data. A rehearsal may set keys of datasets that the base
        configuration of this run does not have: these are left out.
        """
        text = self.protocol.base(run.config).read_text(encoding="utf-8")
        datasets = tomllib.loads(text).get("data", {})
        roots = [
            f'data.{label}.root="{self.data / table["root"]}"'
            for label, table in datasets.items()
            if "root" in table
        ]

        def is_foreign(setting: str) -> bool:
            return setting.startswith("data.") and setting.split(".")[1] not in datasets

        settings = [setting for setting in self.protocol.settings if not is_foreign(setting)]
        return [*roots, *settings]

    def _row(self, run: Run, result: Result) -> Row:
        folder = self.work / run.name
        pretraining = self.work / f"{run.name}-pretraining"
        encoded, cpu_s = result.encoded, result.cpu_s
        configs = [folder / "config.toml"]
        if pretraining.exists():
            used = _last_compute(pretraining)
            encoded += used["encoded"]
            cpu_s += used["cpu_s"]
            configs.insert(0, pretraining / "config.toml")

        row: Row = {
            "format": FORMAT,
            "protocol": self.protocol.name,
            "stage": run.stage,
            "arm": run.arm.name,
            "trial": run.trial,
            "seed": run.seed,
            "steps": run.steps,
            "set": self.settings(run),
            "encoded": encoded,
            "cpu_s": round(cpu_s, 1),
            "validation": _evaluate(folder, "validation", "last"),
        }
        if run.stage != "tune":  # tuning must not read the test split
            row["validation_best"] = _evaluate(folder, "validation", "best")
            row["test"] = _evaluate(folder, run.split, "last")
            row["test_best"] = _evaluate(folder, run.split, "best")

        uses_ema = load(folder / "config.toml").train.ema > 0
        weights = RunFolder.open(folder).require().inference_weights(uses_ema=uses_ema)
        return row | {
            "weights": weights_hash(weights),
            "fingerprint": fingerprint(*configs),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": device(),
            "date": datetime.date.today().isoformat(),
        }


def _pretraining_steps(run: Run) -> int:
    pretraining = run.arm.pretraining
    return round(run.steps * pretraining.share) if pretraining else 0


def _evaluate(folder: Path, split: str, which: Which) -> dict[str, float]:
    """Evaluate a run on a split; metrics by group ("name[group]") are left out."""
    metrics = evaluate(folder, split=split, which=which).metrics
    return {name: round(value, 6) for name, value in metrics.items() if "[" not in name}


def _last_compute(folder: Path) -> dict[str, Any]:
    """Return the last row of a run's log that has its compute: `encoded` images and `cpu_s`."""
    rows = RunFolder.open(folder).log.rows()
    return next(row for row in reversed(rows) if "cpu_s" in row)


# -------------------------------------------------------------------------------- identity of a run


def fingerprint(*configs: Path) -> str:
    """Hash the resolved configurations of a run's parts, whatever the folders are called."""
    text = "".join(file.read_text(encoding="utf-8") for file in configs)
    return hashlib.sha256(without_folders(text).encode()).hexdigest()[:16]


def without_folders(config: str) -> str:
    """Return the text of a configuration without the names of folders."""
    text = re.sub(r'(?m)^(root|init_from) = ".*"$', "", config)
    return re.sub(r'(?m)^(weights = ").*/', r"\1", text)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Hash every bit of a network's tensors, with their names."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        sha256.update(name.encode())
        sha256.update(raw.numpy().tobytes())
    return sha256.hexdigest()[:16]


def device() -> str:
    """Return the name of the GPU, or else the processor and its instruction set."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str:
    """Return the commit of this working copy, or "unknown" outside a repository.

    A "+" follows if files differ from the commit; benchmarks/results does not count.
    """
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+" if changed else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
