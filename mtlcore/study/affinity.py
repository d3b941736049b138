"""Which pretext helps which task? A study with one arm for each pretext, and one without any.

All tasks of the configuration are trained together in every arm. For each pair of a task and a
pretext, the difference of the task's first metric between the arms with and without the pretext is
paired by seed. Holm's correction counts all pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from ..config import load
from ..config.experiment import Experiment
from ..errors import MtlError
from ..evaluation.best import directions
from ..files import exists, read_file
from ..runs import RunFolder
from .new import new_study
from .results import HALF_DECIMAL, key_of, metric_in, name_of
from .statistics import Comparison, Pair, compare_pairs, spread
from .study import Study
from .tables import Table

MARK = "# Written by `mtl affinity`, which replaces it.\n"
DIGITS = 4


@frozen
class Affinity:
    """The effect of each pretext on each task.

    baseline: the arm without any pretext.
    values: metric -> arm -> seed -> value on validation; nan where the seed diverged.
    comparisons: metric -> one comparison for each pretext.
    """

    baseline: str
    values: Mapping[str, Mapping[str, Mapping[int, float]]]
    comparisons: Mapping[str, Sequence[Comparison]]

    def table(self) -> Table:
        """One row for each pair of a task and a pretext."""
        rows: list[tuple[str, ...]] = []
        for metric, compared in self.comparisons.items():
            task, _, name = metric.partition("/")
            for found in compared:
                means = [self._mean(metric, arm) for arm in (found.baseline, found.arm)]
                p = "" if found.p_holm is None else f"{found.p_holm:.3g}"
                difference = found.signed(DIGITS) if found.difference.n else ""
                pairs = str(found.difference.n)
                cells = (task, found.arm, name, *means, pairs, difference, p, found.text)
                rows.append(cells)
        effect = ("pairs", "difference [interval]", "p", "verdict")
        columns = ("task", "pretext", "metric", "without", "with", *effect)
        title = (
            "Effect of each pretext on each task, on validation at equal steps; intervals of 95 % "
            "and p corrected by Holm for all pairs"
        )
        return Table(title, columns, tuple(rows))

    def _mean(self, metric: str, arm: str) -> str:
        known = list(self.values[metric][arm].values())
        return spread(known).shown(DIGITS) if known else ""


def affinity_study(
    config: Path,
    file: Path,
    *,
    pretexts: Sequence[str] = (),
    seeds: int = 3,
    plugins: Sequence[Path] = (),
) -> Study:
    """Write the study of the pretexts, and return it. An earlier one in the same file is replaced.

    With more seeds or pretexts, the runs that have ended still count.

    pretexts: names of components, or labels of the configuration (default: its pretexts).
    Raises MtlError if the file is not from `mtl affinity`, or if there is no task or no pretext.
    """
    experiment = load(config, (), plugins)
    names = list(pretexts) or list(experiment.pretexts)
    if not experiment.tasks:
        raise MtlError(f"{config} has no [task.<label>]: there is nothing that a pretext can help")
    if not names:
        raise MtlError(
            f"{config} has no [pretext.<label>]: name some, such as --pretexts puzzling,rotation"
        )
    if exists(file) and not read_file(file).startswith(MARK.encode()):
        raise MtlError(f"{file} was not written by `mtl affinity`: choose another --out")
    vary = [f"pretext={','.join(names)}"]
    new_study(config, vary, file, seeds=seeds, plugins=plugins, equal_compute=False, mark=MARK)
    return Study.load(file)


def affinity(study: Study) -> Affinity:
    """Return what the finished runs of a study of pretexts say about each task."""
    definition = study.definition
    plan = study.workspace.plan()
    rows = [row for row in plan.results.rows if row["stage"] == "main"]
    upward = _first_metrics(study)
    values: dict[str, dict[str, dict[int, float]]] = {}
    pairs: list[Pair] = []
    for metric, higher_is_better in upward.items():
        by_arm: dict[str, dict[int, float]] = {arm: {} for arm in definition.arms}
        for row in rows:
            by_arm[row["arm"]][row["seed"]] = metric_in(row, "validation", metric)
        values[metric] = by_arm
        baseline = by_arm[definition.baseline]
        for arm, mine in by_arm.items():
            if arm != definition.baseline:
                pair = Pair(
                    arm, definition.baseline, mine, baseline, higher_is_better, HALF_DECIMAL
                )
                pairs.append(pair)

    compared = iter(compare_pairs(pairs))
    others = len(definition.arms) - 1
    comparisons = {metric: [next(compared) for _ in range(others)] for metric in upward}
    return Affinity(definition.baseline, values, comparisons)


def _first_metrics(study: Study) -> dict[str, bool]:
    """Return the first metric of each task -> whether higher is better.

    Which metrics a task has may depend on its classes: a run that has ended knows them.
    """
    experiment = _resolved(study)
    known = directions(experiment)
    found: dict[str, bool] = {}
    for label in experiment.tasks:
        name = next((name for name in known if name.startswith(f"{label}/")), None)
        if name is not None:
            found[name] = known[name]
    return found


def _resolved(study: Study) -> Experiment:
    for row in study.workspace.plan().results.rows:
        folder = study.workspace.work / name_of(key_of(row))
        if (folder / "config.toml").exists():
            return RunFolder.open(folder).experiment()
    raise MtlError(f"{study.folder}: no run has ended: there is nothing to compare yet")
