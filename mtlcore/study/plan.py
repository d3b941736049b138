"""Which runs come next: a pure function of the study and of the finished rows.

It reads validation metrics only. Test metrics never choose a trial or an arm.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from ..errors import MtlError, nearest
from .definition import Arm, Definition, Extra
from .results import Key, Results, Run, name_of

STAGES = ("tune", "seeds", "screen", "semi", "headline", "controls", "close")
"""The stages in order; each extra follows as one."""
ROLES = ("@equal_compute", "@one_view", "@labeled", "@unlabeled", "@best", "@rival")
SAME_COMPUTE = 1.25  # times the baseline's encoder forwards: below it, compute counts as equal
INEXACT = 0.02  # share of a factor that its rounding to one decimal may change
_LONGER = re.compile(r"x\d+(\.\d+)?")


@frozen(eq=False)
class Plan:
    """All runs of a study, stage by stage.

    Stages in order: tune every arm; run every arm, its controls and the baseline at equal compute
    with the study's seeds; screen every arm; run the best ones with unlabeled samples too; the
    headline arms; controls of the two best; arms close to the best; the extras. A stage without
    seeds has no run. A run is listed only when the results that it depends on exist.
    """

    definition: Definition
    results: Results

    def runs(self, stages: Iterable[str] = ()) -> Iterator[Run]:
        """Yield the runs that are known now, finished or not. No stages: all of them."""
        wanted = set(stages)
        for stage, runs in self.stages():
            if not wanted or stage in wanted:
                yield from runs

    def left(self, stages: Iterable[str] = ()) -> list[Run]:
        """Return the runs that have not ended, each once."""
        by_key = {run.key: run for run in self.runs(stages)}
        return [run for run in by_key.values() if self.results.row(run) is None]

    def stages(self) -> Iterator[tuple[str, list[Run]]]:
        """Yield each stage with the runs that are known now."""
        study = self.definition
        arms = list(study.arms.values())

        yield "tune", [run for arm in arms for run in self.tuning(arm)]
        yield "seeds", self.seed_by_seed(self.compared(), study.seeds)
        yield "screen", [run for arm in arms for run in self.main(arm, study.screen_seeds)]

        semi: list[Run] = []
        for arm in self.semi_arms():
            semi += self.tuning(arm)
            semi += self.main(arm, study.screen_seeds)
        yield "semi", semi

        yield "headline", self.seed_by_seed(self.headline(), study.headline_seeds)

        best_two = self.best(self.candidates(), 2)
        controls = [arm.control(name) for arm in best_two for name in arm.controls]
        yield "controls", self.seed_by_seed([*best_two, *controls], study.close_seeds)

        yield "close", [run for arm in self.close() for run in self.main(arm, study.close_seeds)]
        for extra in study.extras:
            yield extra.name, self.extra(extra.name)

    # -------------------------------------------------------------------------- runs of one arm

    def tuning(self, arm: Arm) -> list[Run]:
        """Return the run of every trial of an arm; none if there is nothing to choose."""
        if arm.like is not None or len(arm.trials) == 1:
            return []
        seed, steps = self.definition.tune_seed, self.definition.trial_steps
        return [Run("tune", arm, trial, seed, steps) for trial in range(len(arm.trials))]

    def trial(self, arm: Arm) -> int | None:
        """Return the best trial on validation, or None until all trials have run.

        The first one wins a tie.
        """
        if arm.like is not None:
            return self.trial(self.arm(arm.like))
        scores = [self.results.score(run) for run in self.tuning(arm)]
        known = [score for score in scores if score is not None]
        if len(known) < len(scores):
            return None
        return known.index(max(known)) if known else 0

    def main(self, arm: Arm, seeds: Iterable[int]) -> list[Run]:
        """Return the full-length runs of an arm; none until its trial is chosen."""
        trial = self.trial(arm)
        if trial is None:
            return []
        steps = round(self.definition.full_steps * arm.factor)
        return [Run("main", arm, trial, seed, steps) for seed in seeds]

    def seed_by_seed(self, arms: Sequence[Arm], seeds: Iterable[int]) -> list[Run]:
        """Return the full-length runs of several arms, ordered by seed.

        In this order every pair of arms is complete for the finished seeds, even if the runs are
        stopped early.
        """
        return [run for seed in seeds for arm in arms for run in self.main(arm, [seed])]

    def extra(self, name: str) -> list[Run]:
        """Return the runs of an extra; an arm is missing until its role and trial are known."""
        extra = next(e for e in self.definition.extras if e.name == name)
        steps = self.definition.full_steps * extra.factor
        keys: list[Key] = []
        for word in extra.arms:
            for arm in self.role(word):
                trial = self.trial(arm)
                if trial is not None:
                    arm_steps = round(steps * arm.factor)
                    keys += [(name, arm.name, trial, seed, arm_steps) for seed in extra.seeds]
        # One arm may have several roles: each run is listed once.
        return [self.run(key) for key in dict.fromkeys(keys)]

    def run(self, key: Key) -> Run:
        """Return the run with this key, even if the plan does not list it.

        A finished run leaves the plan when a later trial turns out better.
        Raises MtlError if the arm or the trial does not exist.
        """
        stage, name, trial, seed, steps = key
        arm = self.arm(name)
        if trial >= len(arm.trials):
            raise MtlError(
                f"{name_of(key)}: there is no trial {trial}; the study has {len(arm.trials)} "
                f"trials of {name}, numbered from 0"
            )
        extra = self._extra_of(stage)
        if extra is None:
            return Run(stage, arm, trial, seed, steps)
        return Run(stage, arm, trial, seed, steps, extra.set, extra.config, extra.split)

    def steps_of(self, stage: str, arm: Arm) -> int:
        """Return how many steps the runs of an arm have in a stage."""
        if stage == "tune":
            return self.definition.trial_steps
        extra = self._extra_of(stage)
        steps = self.definition.full_steps * (extra.factor if extra else 1.0)
        return round(steps * arm.factor)

    def _extra_of(self, stage: str) -> Extra | None:
        return next((extra for extra in self.definition.extras if extra.name == stage), None)

    # ---------------------------------------------------------------------------- choosing arms

    def arm(self, name: str) -> Arm:
        """Return an arm by its name, including derived ones such as "puzzling+views_only".

        Raises MtlError on an unknown name.
        """
        first, *suffixes = name.split("+")
        arms = self.definition.arms
        if first not in arms:
            raise MtlError(f"there is no arm {first!r}; {nearest(first, arms)}")
        arm = arms[first]
        for suffix in suffixes:
            derived = {other.name: other for other in self.derived(arm)}
            wanted = f"{arm.name}+{suffix}"
            if wanted in derived:
                arm = derived[wanted]
            elif self._can_be_longer(arm) and _LONGER.fullmatch(suffix):
                arm = arm.longer(float(suffix[1:]))
            else:
                raise MtlError(f"there is no arm {name!r}; {nearest(name, [arm.name, *derived])}")
        return arm

    def derived(self, arm: Arm) -> list[Arm]:
        """Return the arms derived from this one: with unlabeled samples, then its controls."""
        derived: list[Arm] = []
        if self.can_use_unlabeled(arm):
            derived.append(arm.with_unlabeled(self.definition.unlabeled))
        if arm.pretexts and arm.kind in ("arm", "hmtl", "semi"):
            derived += [arm.control(name) for name in arm.controls]
        return derived

    def compared(self) -> list[Arm]:
        """Return the arms that run with the study's `seeds`: all, with what they are compared to.

        The baseline at equal compute follows when it is known how many images each arm encodes.
        """
        arms = list(self.definition.arms.values())
        controls = [other for arm in arms for other in self.controls(arm)]
        return [*arms, *controls, *self.longer()]

    def controls(self, arm: Arm) -> list[Arm]:
        """Return the controls of an arm that the study asks for."""
        if not arm.pretexts or arm.kind in ("sl", "rival"):
            return []
        return [arm.control(name) for name in self.definition.controls if name in arm.controls]

    def longer(self) -> list[Arm]:
        """Return the baseline at the compute of each arm that encodes more images; none twice."""
        study = self.definition
        if study.equal_compute is not True:
            return []
        longer = [self.longer_for(name) for name in study.arms]
        by_factor = {arm.factor: arm for arm in longer if arm is not None}
        return [by_factor[factor] for factor in sorted(by_factor)]

    def longer_for(self, name: str) -> Arm | None:
        """Return the baseline at the compute of an arm; None if that is about the baseline's own.

        It is None, too, if an arm has no row that says how many images it encodes.
        """
        mine, base = self.forwards(name), self.forwards(self.definition.baseline)
        if not encodes_more(mine, base):
            return None
        return self.definition.arms[self.definition.baseline].longer(_rounded(mine / base))

    def forwards(self, name: str, stage: str = "main") -> float:
        """Return the mean number of images that a run of the arm encoded; nan without a row.

        With `equal_compute = true`, those of the first seed decide, so that the plan of a study
        does not change while it runs.
        """
        rows = [row for row in self.results.rows if row["stage"] == stage and row["arm"] == name]
        rows = [row for row in rows if "failed" not in row]
        if self.definition.equal_compute is True:
            rows = [row for row in rows if row["seed"] == self.definition.seeds[0]]
        encoded = [row["encoded"] for row in rows]
        return sum(encoded) / len(encoded) if encoded else math.nan

    def _can_be_longer(self, arm: Arm) -> bool:
        return self.definition.equal_compute is True and arm.name == self.definition.baseline

    def of_kind(self, kind: str) -> list[Arm]:
        """Return the arms of a kind."""
        return [arm for arm in self.definition.arms.values() if arm.kind == kind]

    def screened(self, arm: Arm) -> float | None:
        """Return the score at the first seed that all arms have; None until that run is done."""
        study = self.definition
        runs = self.main(arm, (study.screen_seeds or study.seeds)[:1])
        return self.results.score(runs[0]) if runs else None

    def best(self, arms: Sequence[Arm], number: int) -> list[Arm]:
        """Return the `number` best arms of the screening; none until all are screened."""
        scores: dict[str, float] = {}
        for arm in arms:
            score = self.screened(arm)
            if score is None:
                return []
            scores[arm.name] = score
        return sorted(arms, key=lambda arm: -scores[arm.name])[:number]

    def semi_arms(self) -> list[Arm]:
        """Return the best screened arms, each with unlabeled samples added."""
        able = [arm for arm in self.of_kind("hmtl") if self.can_use_unlabeled(arm)]
        best = self.best(able, self.definition.semi_best_of)
        return [arm.with_unlabeled(self.definition.unlabeled) for arm in best]

    def can_use_unlabeled(self, arm: Arm) -> bool:
        """Whether the arm can also train on unlabeled samples."""
        return arm.kind == "hmtl" and arm.semi and bool(self.definition.unlabeled)

    def candidates(self) -> list[Arm]:
        """Return every HMTL arm; none until the arms with unlabeled samples are chosen."""
        semi = self.semi_arms()
        if not semi and self.definition.semi_best_of:
            return []
        return [*self.of_kind("hmtl"), *self.of_kind("semi"), *semi]

    def role(self, word: str) -> list[Arm]:
        """Return the arm with this name, or the best screened arm of this role.

        Roles: "@equal_compute", "@one_view", "@labeled" (no unlabeled samples), "@unlabeled",
        "@best" (of the last two), "@rival". The list is empty until the arm is known.
        Raises MtlError on an unknown name or role.
        """
        hmtl = self.of_kind("hmtl")
        groups = {
            "@equal_compute": [self.arm(name) for name in self.definition.equal_compute_arms],
            "@one_view": [arm for arm in hmtl if arm.views == 1],
            "@labeled": hmtl,
            "@unlabeled": [*self.of_kind("semi"), *self.semi_arms()],
            "@best": self.candidates(),
            "@rival": self.of_kind("rival"),
        }
        if not word.startswith("@"):
            return [self.arm(word)]
        if word not in groups:
            raise MtlError(f"there is no role {word!r}; {nearest(word, groups)}")
        return self.best(groups[word], 1)

    def headline(self) -> list[Arm]:
        """Return the arms that run with all seeds; none until every role is known."""
        roles = [self.role(word) for word in self.definition.headline]
        if not all(roles):
            return []
        # One arm may have several roles: keep its first place.
        return list({arm.name: arm for arms in roles for arm in arms}.values())

    def pending_stages(self) -> list[str]:
        """Return the stages whose runs depend on results that do not exist yet.

        Stages that this study cannot have are left out.
        """
        study, hmtl = self.definition, self.of_kind("hmtl")
        can_be_semi = any(self.can_use_unlabeled(arm) for arm in hmtl)
        no_pairs = not hmtl or not study.close_seeds
        never_pending = {
            "tune": True,  # depends on no result
            "seeds": not study.seeds,
            "screen": not study.screen_seeds,
            "semi": not study.semi_best_of or not can_be_semi,
            "headline": not study.headline,
            "controls": no_pairs,
            "close": no_pairs,
        }
        return [stage for stage, runs in self.stages() if not runs and not never_pending.get(stage)]

    def close(self) -> list[Arm]:
        """Return the arms within `close_points` of the best one on validation."""
        best = self.role("@best")
        if not best:
            return []
        lowest = (self.screened(best[0]) or 0.0) - self.definition.close_points / 100
        arms = [*self.candidates(), *self.of_kind("rival")]
        return [arm for arm in arms if (self.screened(arm) or 0.0) >= lowest]


def encodes_more(mine: float, base: float) -> bool:
    """Return whether `mine` encoder forwards are so many more than `base` that compute differs.

    It is False if one of them is nan.
    """
    return mine >= SAME_COMPUTE * base


def _rounded(factor: float) -> float:
    """Return a factor with one decimal, or with two if one would change it too much."""
    short = round(factor, 1)
    return short if abs(short - factor) <= INEXACT * factor else round(factor, 2)
