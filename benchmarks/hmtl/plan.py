"""What is to be run next: a pure function of the protocol and of the rows that are there. It reads validation figures alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from attrs import frozen

from mtlcore import MtlError, nearest

from .protocol import Arm, Protocol

Row = dict[str, Any]
Key = tuple[str, str, int, int, int]  # stage, arm, trial, seed, steps
STAGES = ("tune", "screen", "semi", "headline", "controls", "close")  # then one for each extra


@frozen
class Run:
    """One run. arm, trial, seed and steps name it within its stage ("tune", "main", or an extra's name)."""

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
        """Everything that differs from the base configuration, later ones winning."""
        return (*self.arm.set, *self.arm.trials[self.trial], *self.set, f"seed={self.seed}")


@frozen(eq=False)
class Results:
    """The finished runs. metric: the validation figure that chooses."""

    rows: Sequence[Row]
    metric: str

    @cached_property
    def by_key(self) -> dict[Key, Row]:
        return {key_of(row): row for row in self.rows}

    def row(self, run: Run) -> Row | None:
        return self.by_key.get(run.key)

    def value(self, run: Run) -> float | None:
        row = self.row(run)
        return None if row is None else float(row["validation"][self.metric])


def key_of(row: Row) -> Key:
    """What names a row, as `Run.key` names a run."""
    return row["stage"], row["arm"], row["trial"], row["seed"], row["steps"]


def name_of(key: Key) -> str:
    """A key in one word: what a user types, what a run's folder is called."""
    return "-".join(map(str, key))


@frozen(eq=False)
class Plan:
    """Stages in order: tune and screen every arm, feed the best by all images, the headline arms, those close to them, controls,
    extras. What hangs on results that are not there yet is not listed yet."""

    protocol: Protocol
    results: Results

    def runs(self, stages: Iterable[str] = ()) -> Iterator[Run]:
        """Every run that can be named by now, finished or not."""
        wanted = set(stages)
        for stage, runs in self.stages():
            if not wanted or stage in wanted:
                yield from runs

    def stages(self) -> Iterator[tuple[str, list[Run]]]:
        p = self.protocol
        arms = list(p.arms.values())
        yield "tune", [run for arm in arms for run in self.tuning(arm)]
        yield "screen", [run for arm in arms for run in self.main(arm, p.screen_seeds)]
        semi = self.fed_by_all()
        yield (
            "semi",
            [r for arm in semi for r in (*self.tuning(arm), *self.main(arm, p.screen_seeds))],
        )
        # By seed, so that pairs are complete wherever the runs are stopped.
        yield (
            "headline",
            [
                run
                for seed in p.headline_seeds
                for arm in self.headline()
                for run in self.main(arm, [seed])
            ],
        )
        leaders = self.best(self.candidates(), 2)
        paired = [*leaders, *(a.control(word) for a in leaders for word in a.controls)]
        yield (
            "controls",
            [run for seed in p.close_seeds for arm in paired for run in self.main(arm, [seed])],
        )
        yield "close", [run for arm in self.close() for run in self.main(arm, p.close_seeds)]
        for extra in p.extras:
            yield extra.name, self.extra(extra.name)

    # ------------------------------------------------------------------------------------------------ one arm's runs

    def tuning(self, arm: Arm) -> list[Run]:
        """Every trial of an arm; none where there is nothing to choose."""
        if arm.like is not None or len(arm.trials) == 1:
            return []
        return [
            Run("tune", arm, t, self.protocol.tune_seed, self.protocol.tune_steps)
            for t in range(len(arm.trials))
        ]

    def trial(self, arm: Arm) -> int | None:
        """The trial that is best on validation (the first of equals); None before all have run."""
        if arm.like is not None:
            return self.trial(self.arm(arm.like))
        values = [self.results.value(run) for run in self.tuning(arm)]
        if any(v is None for v in values):
            return None
        return max(range(len(values)), key=lambda i: values[i] or 0.0) if values else 0

    def main(self, arm: Arm, seeds: Iterable[int]) -> list[Run]:
        trial = self.trial(arm)
        steps = round(self.protocol.steps * arm.factor)
        return [] if trial is None else [Run("main", arm, trial, seed, steps) for seed in seeds]

    def extra(self, name: str) -> list[Run]:
        extra = next(e for e in self.protocol.extras if e.name == name)
        arms = [arm for word in extra.arms for arm in self.role(word)]
        steps = self.protocol.steps * extra.factor
        keys = [
            (name, arm.name, trial, seed, round(steps * arm.factor))
            for arm in arms
            if (trial := self.trial(arm)) is not None
            for seed in extra.seeds
        ]
        return [self.run(key) for key in dict.fromkeys(keys)]  # one arm may have several roles

    def run(self, key: Key) -> Run:
        """The run of that key, whether it is asked for or not: a trial that lost later is none that is."""
        stage, arm, trial, seed, steps = key
        extra = next((e for e in self.protocol.extras if e.name == stage), None)
        told = (extra.set, extra.config, extra.split) if extra else ()
        found = self.arm(arm)
        if trial >= len(found.trials):
            raise MtlError(
                f"{name_of(key)}: the protocol gives {arm} {len(found.trials)} trials, counted from 0"
            )
        return Run(stage, found, trial, seed, steps, *told)

    # ------------------------------------------------------------------------------------------------ choosing

    def arm(self, name: str) -> Arm:
        """An arm by its name, those derived from others too. Raises MtlError on an unknown one."""
        first, *rest = name.split("+")
        if first not in self.protocol.arms:
            raise MtlError(f"there is no arm {first!r}; {nearest(first, self.protocol.arms)}")
        arm = self.protocol.arms[first]
        for word in rest:
            derived = {a.name: a for a in self.derived(arm)}
            if f"{arm.name}+{word}" not in derived:
                raise MtlError(f"there is no arm {name!r}; {nearest(name, [arm.name, *derived])}")
            arm = derived[f"{arm.name}+{word}"]
        return arm

    def derived(self, arm: Arm) -> list[Arm]:
        """The same arm fed by all images, and its controls, as far as it can have them."""
        controls = (
            [arm.control(word) for word in arm.controls]
            if arm.pretext and arm.kind in ("hmtl", "semi")
            else []
        )
        return [
            *([arm.fed_by_all(self.protocol.unlabeled)] if self.can_be_fed_by_all(arm) else []),
            *controls,
        ]

    def of_kind(self, kind: str) -> list[Arm]:
        return [arm for arm in self.protocol.arms.values() if arm.kind == kind]

    def screened(self, arm: Arm) -> float | None:
        """Its validation figure at the first screening seed."""
        runs = self.main(arm, self.protocol.screen_seeds[:1])
        return self.results.value(runs[0]) if runs else None

    def best(self, arms: Sequence[Arm], number: int) -> list[Arm]:
        """The `number` best screened ones; none before all of them are screened."""
        values = {arm.name: self.screened(arm) for arm in arms}
        if not arms or any(v is None for v in values.values()):
            return []
        return sorted(arms, key=lambda arm: -(values[arm.name] or 0.0))[:number]

    def fed_by_all(self) -> list[Arm]:
        """The best screened arms that can be, fed by rows without labels, too."""
        p = self.protocol
        able = [arm for arm in self.of_kind("hmtl") if self.can_be_fed_by_all(arm)]
        return [arm.fed_by_all(p.unlabeled) for arm in self.best(able, p.semi_best_of)]

    def can_be_fed_by_all(self, arm: Arm) -> bool:
        return arm.kind == "hmtl" and arm.semi and bool(self.protocol.unlabeled)

    def candidates(self) -> list[Arm]:
        """Every HMTL arm, once it is known which of them are fed by all images."""
        semi = self.fed_by_all()
        return [*self.of_kind("hmtl"), *semi] if semi or not self.protocol.semi_best_of else []

    def role(self, word: str) -> list[Arm]:
        """An arm by name, or by its part: the best of a group, by the screening; none before that is known."""
        hmtl = self.of_kind("hmtl")
        groups = {
            "@equal_compute": [self.arm(n) for n in self.protocol.equal_compute],
            "@one_view": [a for a in hmtl if a.views == 1],
            "@labeled": hmtl,
            "@unlabeled": self.fed_by_all(),
            "@best": self.candidates(),
            "@rival": self.of_kind("rival"),
        }
        if not word.startswith("@"):
            return [self.arm(word)]
        if word not in groups:
            raise MtlError(f"there is no role {word!r}; {nearest(word, groups)}")
        return self.best(groups[word], 1)

    def headline(self) -> list[Arm]:
        """The arms that get all seeds; none before the screening tells all of them."""
        found = [self.role(word) for word in self.protocol.headline]
        return (
            list({arm.name: arm for arms in found for arm in arms}.values()) if all(found) else []
        )

    def unnamed(self) -> list[str]:
        """Stages whose runs hang on results that are not there yet; not those that this protocol can't have."""
        hmtl = self.of_kind("hmtl")
        never = {
            "tune": True,  # it hangs on nothing
            "semi": not self.protocol.semi_best_of or not any(map(self.can_be_fed_by_all, hmtl)),
            "controls": not hmtl,
            "close": not hmtl,
        }
        return [stage for stage, runs in self.stages() if not runs and not never.get(stage)]

    def close(self) -> list[Arm]:
        """Arms within some points of the best on validation."""
        best = self.role("@best")
        if not best:
            return []
        least = (self.screened(best[0]) or 0.0) - self.protocol.close_points / 100
        return [
            a
            for a in (*self.candidates(), *self.of_kind("rival"))
            if (self.screened(a) or 0.0) >= least
        ]
