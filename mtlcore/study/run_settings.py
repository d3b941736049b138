"""The settings of runs that exist: which runs differ only by seed, and what else differs.

Everything is read from config.toml and run.json. No component is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from ..config.overrides import Table
from ..config.same import flat, is_resumable
from ..errors import MtlError
from ..files import is_file, is_folder
from ..runs import RunFolder
from ..sealed import JsonObject
from .results import PRETRAINING

COMPUTE_KEYS = ("train.steps", "train.epochs")
"""Keys that a resumed run may change, and that change its result nonetheless."""
LABELED = ("task", "pretext", "data", "callback", "augment")
CACHE_SIZE = "input.cache_size"
"""Resolved from the sizes of the training images, so it may depend on the seed, which splits them.
"""
MUST_BE_EQUAL = ("encoder", "data", "input", "train.steps", "train.epochs", "train.init_from")
"""Tables and keys that make two arms unfair to compare, unless they are what is compared."""


SET_ASIDE = re.compile(r"\.old-\d+$")
"""The folder of a run whose study was edited afterwards."""
OF_ARM = re.compile(r"main-.+-\d+-\d+-\d+")
"""The folder of a full-length run of a study: "main", arm, trial, seed, steps.

Trials, extras and pre-training have other names. They may have the settings and seed of such a run.
"""


@frozen
class RunRecord:
    """What a run folder says about its run.

    seed: of all draws. tables: of config.toml, without the seed. provenance: of run.json.
    """

    path: Path
    seed: int
    tables: Table
    provenance: JsonObject

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Read a run folder. Raises MtlError if it is none, or if its files are damaged."""
        folder = RunFolder.open(path)
        tables = folder.config_tables()
        seed = int(tables.pop("seed", 0))
        return cls(path, seed, tables, folder.provenance())

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return bool(self.provenance.get("finished"))

    @property
    def settings(self) -> dict[str, object]:
        """Dotted key -> value of everything that two runs of one arm have in common."""
        shared = {
            key: _without_learned(key, value)
            for key, value in compared(self.tables)
            if key != CACHE_SIZE
        }
        if self.pretraining is not None:
            shared["train.init_from"] = f"the pre-training of {_without_seed(self)}"
        return shared

    @property
    def pretraining(self) -> Path | None:
        """The folder of its pre-training, if it is a run of a study and has one."""
        first_part = f"{self.path.name}{PRETRAINING}"
        start = self.tables.get("train", {}).get("init_from")
        if not start or Path(start).name != first_part:
            return None
        return self.path.with_name(first_part)

    def total(self, entry: str) -> float:
        """Return an entry of run.json, such as "cpu_s", with that of its pre-training.

        Raises MtlError if the folder of the pre-training is missing or damaged.
        """
        own = float(self.provenance[entry])
        if self.pretraining is None:
            return own
        return own + float(RunFolder.open(self.pretraining).provenance()[entry])

    @property
    def cache_size(self) -> object:
        """Height and width of the images in its image cache."""
        return dict(compared(self.tables)).get(CACHE_SIZE)


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among these paths, and those in folders of runs; each once.

    Raises MtlError for a path that is neither.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        inside = [path]
        if not is_file(RunFolder(path).config):
            inside = _runs_in(path)
        for run in inside:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _runs_in(path: Path) -> list[Path]:
    if not is_folder(path):
        raise MtlError(f"{path}: there is no such folder. Expected run folders of `mtl train`")
    if is_file(path / "runs.jsonl"):
        return _of_arms(path / "runs")
    if path.resolve().name == "runs" and is_file(path.resolve().parent / "runs.jsonl"):
        return _of_arms(path)
    inside = [run for run in _folders_in(path) if not SET_ASIDE.search(run.name)]
    if not inside:
        raise MtlError(
            f"{path} is neither a run nor a folder of runs: no config.toml in it, and none in a "
            "folder in it. Expected run folders of `mtl train`"
        )
    return inside


def _of_arms(path: Path) -> list[Path]:
    """Return the full-length runs of a study. path: the folder of its run folders."""
    if not is_folder(path):
        raise MtlError(f"{path} is missing: the folder of the study has no run folders")
    inside = [run for run in _folders_in(path) if OF_ARM.fullmatch(run.name)]
    if not inside:
        raise MtlError(
            f"{path} has no full-length run of an arm yet (main-ARM-TRIAL-SEED-STEPS): "
            "`mtl study run` trains them. Trials, extras and pre-training are not compared"
        )
    return inside


def _folders_in(path: Path) -> list[Path]:
    return [run for run in sorted(path.iterdir()) if is_file(RunFolder(run).config)]


def compared(tables: Table) -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of each setting that may change the result of a run."""
    for key, value in flat(tables):
        free = is_resumable(key) and key not in COMPUTE_KEYS
        if not free or key.startswith(("callback.", "plugins")):
            yield key, value


def differences(mine: RunRecord, other: RunRecord, here: str, there: str) -> dict[str, str]:
    """Return the dotted key of each setting that differs -> "VALUE in HERE, VALUE in THERE".

    A labeled table that only one of them has is one entry, such as "pretext.puzzling". Values that
    a task learns from the data (means, class weights), and `input.cache_size`, are compared only at
    equal seeds: the seed draws the validation split.
    """
    now, before = dict(compared(mine.tables)), dict(compared(other.tables))
    if mine.seed != other.seed:
        now, before = mine.settings, other.settings
    found: dict[str, str] = {}
    for key in dict.fromkeys([*before, *now]):
        if now.get(key) == before.get(key):
            continue
        table = _missing_table(key, now, before)
        if table:
            found[table] = f"only in {here if key in now else there}"
        else:
            found[key] = f"{_shown(now.get(key))} in {here}, {_shown(before.get(key))} in {there}"
    return found


def unfair(keys: Sequence[str], vary: Sequence[str]) -> list[str]:
    """Return the keys that must be equal for a fair comparison and are not in `vary`."""
    strict = [key for key in keys if _is_in(key, MUST_BE_EQUAL)]
    return [key for key in strict if not _is_in(key, vary)]


def _is_in(key: str, tables: Sequence[str]) -> bool:
    return any(key == table or key.startswith(f"{table}.") for table in tables)


def _missing_table(key: str, now: Mapping[str, object], before: Mapping[str, object]) -> str | None:
    """Return the labeled table of a key if only one side has it, such as "pretext.puzzling"."""
    section, _, rest = key.partition(".")
    if section not in LABELED or "." not in rest:
        return None
    table = f"{section}.{rest.partition('.')[0]}"
    both = all(any(k.startswith(f"{table}.") for k in side) for side in (now, before))
    return None if both else table


def _without_seed(run: RunRecord) -> str:
    """Return the name of a run of a study without its seed: stage, arm, trial, steps."""
    return re.sub(rf"-{run.seed}-(\d+)$", r"-\1", run.path.name)


def _without_learned(key: str, value: object) -> object:
    """Return a value without the numbers that a task learns from the training samples."""
    if not key.startswith("task.") or not isinstance(value, list) or not value:
        return value
    return f"{len(value)} numbers" if all(isinstance(x, float) for x in value) else value


def _shown(value: object) -> str:
    return "unset" if value is None else repr(value)
