"""Which runs come next: a pure function of the protocol and of the finished rows.

It reads validation metrics only. Test metrics never choose a trial or an arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from attrs import frozen

from mtlcore import MtlError, nearest

from .protocol import Arm, Extra, Protocol

Row = dict[str, Any]  # one line of runs.jsonl
Key = tuple[str, str, int, int, int]  # stage, arm, trial, seed, steps
STAGES = ("tune", "screen", "semi", "headline", "controls", "close")  # each extra follows as one


@frozen
class Run:
    """One run; `stage`, `arm`, `trial`, `seed` and `steps` identify it.

    stage: "tune", "main", or the name of an extra.
    set: settings of the extra.
    config: base configuration of the extra; None uses the protocol's.
    split: the split that is used as the test split.
    """

    stage: str
    arm: Arm
    trial: int
    seed: int
    steps: int
    set: tuple[str, ...] = ()
    config: str | None = None
    split: str = "test"

    @property
    def key(self) -> Key:
        return self.stage, self.arm.name, self.trial, self.seed, self.steps

    @property
    def name(self) -> str:
        return name_of(self.key)

    @property
    def overrides(self) -> tuple[str, ...]:
        """All settings that differ from the base configuration; later ones win."""
        return (*self.arm.set, *self.arm.trials[self.trial], *self.set, f"seed={self.seed}")


@frozen(eq=False)
class Results:
    """The finished rows.

    metric: the validation metric that chooses trials and arms.
    """

    rows: Sequence[Row]
    metric: str

    @cached_property
    def by_key(self) -> dict[Key, Row]:
        return {key_of(row): row for row in self.rows}

    def row(self, run: Run) -> Row | None:
        """Return the row of a run, or None if the run is not finished."""
        return self.by_key.get(run.key)

    def value(self, run: Run) -> float | None:
        """Return the validation metric of a run, or None if the run is not finished."""
        row = self.row(run)
        return None if row is None else float(row["validation"][self.metric])


def key_of(row: Row) -> Key:
    """Return the key of a row: it equals `Run.key` of its run."""
    return row["stage"], row["arm"], row["trial"], row["seed"], row["steps"]


def name_of(key: Key) -> str:
    """Join a key into one word: the name that users type, and the name of the run folder."""
    return "-".join(map(str, key))


@frozen(eq=False)
class Plan:
    """All runs of a protocol, stage by stage.

    Stages in order: tune every arm; screen every arm; run the best ones with unlabeled samples
    too; the headline arms; controls of the two best; arms close to the best; the extras. A run is
    listed only when the results that it depends on exist.
    """

    protocol: Protocol
    results: Results

    def runs(self, stages: Iterable[str] = ()) -> Iterator[Run]:
        """Yield the runs that are known now, finished or not. No stages: all of them."""
        wanted = set(stages)
        for stage, runs in self.stages():
            if not wanted or stage in wanted:
                yield from runs

    def stages(self) -> Iterator[tuple[str, list[Run]]]:
        """Yield each stage with the runs that are known now."""
        protocol = self.protocol
        arms = list(protocol.arms.values())

        yield "tune", [run for arm in arms for run in self.tuning(arm)]
        yield "screen", [run for arm in arms for run in self.main(arm, protocol.screen_seeds)]

        semi: list[Run] = []
        for arm in self.semi_arms():
            semi += self.tuning(arm)
            semi += self.main(arm, protocol.screen_seeds)
        yield "semi", semi

        yield "headline", self.seed_by_seed(self.headline(), protocol.headline_seeds)

        best_two = self.best(self.candidates(), 2)
        controls = [arm.control(name) for arm in best_two for name in arm.controls]
        yield "controls", self.seed_by_seed([*best_two, *controls], protocol.close_seeds)

        yield "close", [run for arm in self.close() for run in self.main(arm, protocol.close_seeds)]
        for extra in protocol.extras:
            yield extra.name, self.extra(extra.name)

    # -------------------------------------------------------------------------- runs of one arm

    def tuning(self, arm: Arm) -> list[Run]:
        """Return the run of every trial of an arm; none if there is nothing to choose."""
        if arm.like is not None or len(arm.trials) == 1:
            return []
        seed, steps = self.protocol.tune_seed, self.protocol.tune_steps
        return [Run("tune", arm, trial, seed, steps) for trial in range(len(arm.trials))]

    def trial(self, arm: Arm) -> int | None:
        """Return the best trial on validation, or None until all trials have run.

        The first one wins a tie.
        """
        if arm.like is not None:
            return self.trial(self.arm(arm.like))
        values = [self.results.value(run) for run in self.tuning(arm)]
        if any(value is None for value in values):
            return None
        if not values:
            return 0
        return max(range(len(values)), key=lambda trial: values[trial] or 0.0)

    def main(self, arm: Arm, seeds: Iterable[int]) -> list[Run]:
        """Return the full-length runs of an arm; none until its trial is chosen."""
        trial = self.trial(arm)
        if trial is None:
            return []
        steps = round(self.protocol.steps * arm.factor)
        return [Run("main", arm, trial, seed, steps) for seed in seeds]

    def seed_by_seed(self, arms: Sequence[Arm], seeds: Iterable[int]) -> list[Run]:
        """Return the full-length runs of several arms, ordered by seed.

        In this order every pair of arms is complete for the finished seeds, even if the runs are
        stopped early.
        """
        return [run for seed in seeds for arm in arms for run in self.main(arm, [seed])]

    def extra(self, name: str) -> list[Run]:
        """Return the runs of an extra; an arm is missing until its role and trial are known."""
        extra = next(e for e in self.protocol.extras if e.name == name)
        steps = self.protocol.steps * extra.factor
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
                f"{name_of(key)}: there is no trial {trial}; the protocol has {len(arm.trials)} "
                f"trials of {name}, numbered from 0"
            )
        extra = self._extra_of(stage)
        if extra is None:
            return Run(stage, arm, trial, seed, steps)
        return Run(stage, arm, trial, seed, steps, extra.set, extra.config, extra.split)

    def _extra_of(self, stage: str) -> Extra | None:
        return next((extra for extra in self.protocol.extras if extra.name == stage), None)

    # ---------------------------------------------------------------------------- choosing arms

    def arm(self, name: str) -> Arm:
        """Return an arm by its name, including derived ones such as "puzzling+views_only".

        Raises MtlError on an unknown name.
        """
        first, *suffixes = name.split("+")
        if first not in self.protocol.arms:
            raise MtlError(f"there is no arm {first!r}; {nearest(first, self.protocol.arms)}")
        arm = self.protocol.arms[first]
        for suffix in suffixes:
            derived = {other.name: other for other in self.derived(arm)}
            wanted = f"{arm.name}+{suffix}"
            if wanted not in derived:
                raise MtlError(f"there is no arm {name!r}; {nearest(name, [arm.name, *derived])}")
            arm = derived[wanted]
        return arm

    def derived(self, arm: Arm) -> list[Arm]:
        """Return the arms derived from this one: with unlabeled samples, then its controls."""
        derived: list[Arm] = []
        if self.can_use_unlabeled(arm):
            derived.append(arm.with_unlabeled(self.protocol.unlabeled))
        if arm.pretext and arm.kind in ("hmtl", "semi"):
            derived += [arm.control(name) for name in arm.controls]
        return derived

    def of_kind(self, kind: str) -> list[Arm]:
        return [arm for arm in self.protocol.arms.values() if arm.kind == kind]

    def screened(self, arm: Arm) -> float | None:
        """Return the validation metric at the first screening seed; None until that run is done."""
        runs = self.main(arm, self.protocol.screen_seeds[:1])
        return self.results.value(runs[0]) if runs else None

    def best(self, arms: Sequence[Arm], number: int) -> list[Arm]:
        """Return the `number` best arms of the screening; none until all are screened."""
        values = {arm.name: self.screened(arm) for arm in arms}
        if not arms or any(value is None for value in values.values()):
            return []
        ranked = sorted(arms, key=lambda arm: -(values[arm.name] or 0.0))
        return ranked[:number]

    def semi_arms(self) -> list[Arm]:
        """Return the best screened arms, each with unlabeled samples added."""
        able = [arm for arm in self.of_kind("hmtl") if self.can_use_unlabeled(arm)]
        best = self.best(able, self.protocol.semi_best_of)
        return [arm.with_unlabeled(self.protocol.unlabeled) for arm in best]

    def can_use_unlabeled(self, arm: Arm) -> bool:
        return arm.kind == "hmtl" and arm.semi and bool(self.protocol.unlabeled)

    def candidates(self) -> list[Arm]:
        """Return every HMTL arm; none until the arms with unlabeled samples are chosen."""
        semi = self.semi_arms()
        if not semi and self.protocol.semi_best_of:
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
            "@equal_compute": [self.arm(name) for name in self.protocol.equal_compute],
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
        roles = [self.role(word) for word in self.protocol.headline]
        if not all(roles):
            return []
        # One arm may have several roles: keep its first place.
        return list({arm.name: arm for arms in roles for arm in arms}.values())

    def pending_stages(self) -> list[str]:
        """Return the stages whose runs depend on results that do not exist yet.

        Stages that this protocol cannot have are left out.
        """
        hmtl = self.of_kind("hmtl")
        can_be_semi = any(self.can_use_unlabeled(arm) for arm in hmtl)
        never_pending = {
            "tune": True,  # depends on no result
            "semi": not self.protocol.semi_best_of or not can_be_semi,
            "controls": not hmtl,
            "close": not hmtl,
        }
        return [stage for stage, runs in self.stages() if not runs and not never_pending.get(stage)]

    def close(self) -> list[Arm]:
        """Return the arms within `close_points` of the best one on validation."""
        best = self.role("@best")
        if not best:
            return []
        lowest = (self.screened(best[0]) or 0.0) - self.protocol.close_points / 100
        arms = [*self.candidates(), *self.of_kind("rival")]
        return [arm for arm in arms if (self.screened(arm) or 0.0) >= lowest]
