"""Arms of runs that exist: the runs that differ only by seed, under a name from their folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from ..errors import MtlError, nearest
from ..files import is_file
from .read import read_tables
from .run_settings import RunRecord

_SEED = r"(?:[\W_]*(?:seed|s))?[\W_]*(?<!\d)0*{seed}$"
"""The end of a folder's name that holds the seed: "-s0", "_seed=0", "/0"."""

_OF_STUDY = r"(?<![^/])main-(?P<arm>[^/]+)-\d+-{seed}-\d+$"
"""The name of a run of a study: stage, arm, trial, seed, steps."""


@frozen
class Arm:
    """The runs of one configuration. runs: seed -> run, in the order of the seeds."""

    name: str
    runs: dict[int, RunRecord]

    @property
    def first(self) -> RunRecord:
        """The run with the smallest seed."""
        return next(iter(self.runs.values()))

    def mean(self, entry: str) -> float | None:
        """The mean of an entry of run.json, such as "cpu_s", over the finished runs.

        That of a pre-training is included. Raises MtlError if the folder of one can't be read.
        """
        values = [run.total(entry) for run in self.runs.values() if run.finished]
        return sum(values) / len(values) if values else None


def arms_of(runs: Sequence[RunRecord]) -> list[Arm]:
    """Group runs by their settings without the seed, in the order of their first runs.

    `input.cache_size` may differ between the seeds of an arm: see `RunRecord.settings`.

    Raises MtlError if two runs have the same settings and seed.
    """
    groups: list[list[RunRecord]] = []
    for run in runs:
        same = next((group for group in groups if group[0].settings == run.settings), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
    groups = [part for group in groups for part in _by_cache_size(group)]
    names = _names(groups)
    return [Arm(name, _by_seed(group)) for name, group in zip(names, groups)]


def _by_cache_size(group: list[RunRecord]) -> list[list[RunRecord]]:
    """Split runs with a repeated seed by `input.cache_size`: then it is what is compared."""
    seeds = {run.seed for run in group}
    if len(seeds) == len(group):
        return [group]
    sizes: list[object] = []
    for run in group:
        if run.cache_size not in sizes:
            sizes.append(run.cache_size)
    return [[run for run in group if run.cache_size == size] for size in sizes]


def arm_named(arms: Sequence[Arm], name: str | Path | None) -> Arm:
    """Return the arm of this name, or of the run in this folder; the first one for None."""
    if name is None:
        return arms[0]
    folder = Path(name).resolve()
    for arm in arms:
        if arm.name == str(name) or any(r.path.resolve() == folder for r in arm.runs.values()):
            return arm
    raise MtlError(
        f"baseline = {str(name)!r}: neither an arm nor the folder of one of the runs; "
        f"{nearest(str(name), [arm.name for arm in arms])}"
    )


def baseline_of_study(runs: Sequence[str | Path], arms: Sequence[Arm]) -> str | None:
    """Return the arm that a study calls its baseline, if the runs are those of its folder.

    Raises MtlError if the file of the study can't be read.
    """
    file = Path(runs[0]) / "study.toml"
    if len(runs) != 1 or not is_file(file):
        return None
    name = read_tables(file).get("baseline")
    return next((arm.name for arm in arms if arm.name == name), None)


def _by_seed(group: Sequence[RunRecord]) -> dict[int, RunRecord]:
    found: dict[int, RunRecord] = {}
    for run in sorted(group, key=lambda run: run.seed):
        if run.seed in found:
            raise MtlError(
                f"{found[run.seed].path} and {run.path} have the same settings and the same seed "
                f"({run.seed}): a seed counts once, so leave one of them out"
            )
        found[run.seed] = run
    return found


def _names(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Return a name for each group: that of its first folder, without the seed.

    Two groups with the same name keep the seed.
    """
    if not groups:
        return []
    paths = [run.path.resolve() for group in groups for run in group]
    parent = Path(os.path.commonpath([path.parent for path in paths]))
    names = [_stem(group, parent) for group in groups]
    firsts = [group[0].path.resolve().relative_to(parent).as_posix() for group in groups]
    return [
        name if names.count(name) == 1 and name else first for name, first in zip(names, firsts)
    ]


def _stem(group: Sequence[RunRecord], parent: Path) -> str:
    """Return the name of the first folder of a group without the seed; "" if nothing is left."""
    first = group[0]
    name = first.path.resolve().relative_to(parent).as_posix()
    of_study = re.search(_OF_STUDY.format(seed=first.seed), name)
    if of_study is not None:
        return f"{name[: of_study.start()]}{of_study['arm']}"
    return re.sub(_SEED.format(seed=first.seed), "", name)
