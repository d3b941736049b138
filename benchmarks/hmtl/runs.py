"""One run of a protocol: trained (or gone on with), evaluated at its last and at its best step, and told in one JSON line."""

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
from mtlcore.config import dump, load
from mtlcore.config.experiment import Experiment
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.runs import RunFolder
from mtlcore.train.trainer import Result, train

from . import lite0
from .plan import Plan, Results, Row, Run, key_of, name_of
from .protocol import Protocol

ROOT = Path(__file__).resolve().parent.parent.parent


@frozen
class Workspace:
    """Where data lie, where run folders go, and the file of finished runs."""

    protocol: Protocol
    data: Path
    work: Path
    file: Path

    def rows(self) -> list[Row]:
        """The finished runs; of one that stands twice, the first."""
        found: dict[Any, Row] = {}
        for line in (
            self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        ):
            with suppress(json.JSONDecodeError):  # what a crash has cut off was no finished run
                row = json.loads(line)
                found.setdefault(key_of(row), row)
        return list(found.values())

    def plan(self) -> Plan:
        """The plan by the lines that stand in the file now.

        Raises MtlError where one was made with other settings than the protocol gives it now.
        """
        plan = Plan(self.protocol, Results(self.rows(), self.protocol.metric))
        for row in plan.results.rows:
            asked = self.settings(plan.run(key_of(row)))
            if row["set"] != asked:
                raise MtlError(
                    f"{self.file}: {name_of(key_of(row))} was made with {row['set']}, the protocol now says {asked}: "
                    "a protocol that has been run and changes gets a new name (a rehearsal: another --work)"
                )
        return plan

    def settings(self, run: Run) -> list[str]:
        """What a run's line says that it was set to."""
        return [*run.overrides, *self.protocol.settings]

    def row(self, run: Run) -> Row | None:
        """The line of this run, as it stands in the file now."""
        return self.plan().results.row(run)

    @contextmanager
    def claimed(self, run: Run) -> Iterator[bool]:
        """Whether this process alone works on the run; the claim ends with the process, however it ends."""
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

    def do(self, run: Run) -> Row:
        """Train what is left of this run, and add its line."""
        row = self.trained(run)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a+b") as lines:
            lines.seek(0)
            cut = lines.read()[-1:] not in (b"", b"\n")
            lines.write(b"\n" * cut + json.dumps(row).encode() + b"\n")
        return row

    def trained(self, run: Run) -> Row:
        """Train what is left of this run. -> what its line says."""
        code = commit()  # now: the working copy may move on meanwhile
        start = self._pretrain(run)
        steps = run.steps - _first_part(run)
        result = self._trained(
            run, (*run.overrides, *start, f"train.steps={steps}"), self.work / run.name
        )
        return self._row(run, result) | {"commit": code}

    def _pretrain(self, run: Run) -> tuple[str, ...]:
        first = run.arm.pretraining
        if first is None:
            return ()
        out = self.work / f"{run.name}-pretraining"
        settings = (*run.overrides, *first.set, f"train.steps={_first_part(run)}")
        self._trained(run, settings, out, supervised=False)
        return (f'train.init_from="{out}"',)

    def _trained(
        self, run: Run, overrides: tuple[str, ...], out: Path, supervised: bool = True
    ) -> Result:
        settings = [lite0.filled_in(setting, self.work) for setting in overrides]
        experiment = load(self.protocol.base(run.config), [*settings, *self.here(run)])
        if not supervised:
            experiment = evolve(experiment, tasks={})
        resume = (out / "config.toml").exists()
        self._same_question(experiment, out, resume)
        return train(experiment, out, resume=resume)

    def _same_question(self, experiment: Experiment, out: Path, resume: bool) -> None:
        """A half-trained run goes on only with the configuration that it began with, which stands beside its folder."""
        asked, now = out.with_name(f"{out.name}.toml"), dump(experiment)
        if resume and asked.exists() and plain(asked.read_text(encoding="utf-8")) != plain(now):
            raise MtlError(
                f"{out}: begun with another configuration ({asked}) than the protocol gives it now: remove that folder, or "
                "choose another --work"
            )
        self.work.mkdir(parents=True, exist_ok=True)
        asked.write_text(now, encoding="utf-8")

    def here(self, run: Run) -> list[str]:
        """Each source's root, by its label under --data; and what a rehearsal sets, of the sources that this base has."""
        tables = tomllib.loads(self.protocol.base(run.config).read_text(encoding="utf-8")).get(
            "data", {}
        )
        rooted = {
            label: self.data / table["root"] for label, table in tables.items() if "root" in table
        }
        foreign = [
            s
            for s in self.protocol.settings
            if s.startswith("data.") and s.split(".")[1] not in tables
        ]
        settings = [s for s in self.protocol.settings if s not in foreign]
        return [*(f'data.{label}.root="{root}"' for label, root in rooted.items()), *settings]

    def _row(self, run: Run, result: Result) -> Row:
        folder = self.work / run.name
        first = self.work / f"{run.name}-pretraining"
        before = _cost(first) if first.exists() else {"encoded": 0, "cpu_s": 0.0}
        row: dict[str, Any] = {
            "protocol": self.protocol.name,
            "stage": run.stage,
            "arm": run.arm.name,
            "trial": run.trial,
            "seed": run.seed,
            "steps": run.steps,
            "set": self.settings(run),
            "encoded": result.encoded + before["encoded"],
            "cpu_s": round(result.cpu_s + before["cpu_s"], 1),
            "validation": _figures(evaluate(folder, split="validation").measured.metrics),
        }
        if run.stage != "tune":  # what tunes never looks at the test rows
            row["validation_best"] = _figures(
                evaluate(folder, split="validation", which="best").measured.metrics
            )
            row["test"] = _figures(evaluate(folder, split=run.split).measured.metrics)
            row["test_best"] = _figures(
                evaluate(folder, split=run.split, which="best").measured.metrics
            )
        return row | {
            "weights": weights_hash(RunFolder.open(folder).require().inference_weights()),
            "fingerprint": fingerprint(
                *(part / "config.toml" for part in (first, folder) if part.exists())
            ),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": device(),
            "date": datetime.date.today().isoformat(),
        }


def _first_part(run: Run) -> int:
    return round(run.steps * run.arm.pretraining.share) if run.arm.pretraining else 0


def fingerprint(*configs: Path) -> str:
    """Of the resolved configurations of a run's parts, whatever the folders are called."""
    text = "".join(file.read_text(encoding="utf-8") for file in configs)
    return hashlib.sha256(plain(text).encode()).hexdigest()[:16]


def plain(config: str) -> str:
    """A configuration without the names of folders."""
    text = re.sub(r'(?m)^(root|init_from) = ".*"$', "", config)
    return re.sub(r'(?m)^(weights = ").*/', r"\1", text)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Of every bit of a network's tensors, by name."""
    bits = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        bits.update(name.encode())
        bits.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return bits.hexdigest()[:16]


def device() -> str:
    """What trains here: the GPU's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def commit() -> str:
    """The commit of this working copy, with a "+" where its files differ from it, results aside; "unknown" outside of one."""
    try:
        said = _git("rev-parse", "--short=12", "HEAD")
        return said + "+" * bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def _figures(metrics: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items() if "[" not in name}


def _cost(folder: Path) -> dict[str, Any]:
    """The last line of a run's log that tells what it has cost."""
    return next(row for row in reversed(RunFolder.open(folder).rows()) if "cpu_s" in row)
