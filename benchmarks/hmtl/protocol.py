"""A protocol: arms, seeds, steps, the tuning budget, and the rule that chooses an arm.

A protocol is a TOML file in `benchmarks/protocols`; its keys are the fields of the classes below.
It is committed before it is run. A protocol that has been run never changes: a change makes a new
protocol with a new name.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import cattrs
from attrs import evolve, field, frozen

from mtlcore import MtlError, nearest

FOLDER = Path(__file__).resolve().parent.parent / "protocols"
CONTROLS = ("views_only", "random_target")


@frozen
class Pretraining:
    """The first part of a run: the encoder trains on pretexts alone, without tasks.

    The second part starts from these weights.

    share: share of the run's steps, 0 to 1.
    set: settings of this part, as `mtl train --set` takes them.
    """

    share: float
    set: tuple[str, ...]


@frozen
class Arm:
    """One way to train.

    kind: "sl", "hmtl" (labeled samples only), "semi" (unlabeled samples too), "control", or "rival"
        (another method on the same samples).
    views: batches encoded in a step; a batch has as many images as there are labeled samples.
    set: what differs from the base configuration, as `mtl train --set` takes it.
    trials: settings to tune; the trial with the best validation metric is used.
    like: another arm; use its chosen trial instead of tuning.
    pretext: label of the pretext that controls switch off.
    factor: multiplier of the protocol's steps.
    pretraining: the first part of the run; None trains in one part.
    controls: the controls that make sense for this arm.
    semi: whether the arm can also train on unlabeled samples.
    """

    name: str
    kind: str
    views: int
    set: tuple[str, ...] = ()
    trials: tuple[tuple[str, ...], ...] = ((),)
    like: str | None = None
    pretext: str | None = None
    factor: float = 1.0
    pretraining: Pretraining | None = None
    controls: tuple[str, ...] = CONTROLS
    semi: bool = True

    def with_unlabeled(self, unlabeled: tuple[str, ...]) -> Arm:
        """Return the same arm with as many unlabeled samples as labeled ones in each step.

        It encodes two batches a step, or three if the pretext compares the clean view with another.

        unlabeled: the settings that keep unlabeled samples.
        """
        settings = (*self.set, *unlabeled)
        if self.views > 1:
            # The pretext has a view of its own. It encodes the unlabeled samples only, so that the
            # number of encoded batches stays at two.
            settings = (*settings, f'pretext.{self.pretext}.samples="unlabeled"')
        return evolve(self, name=f"{self.name}+all", kind="semi", views=2, set=settings)

    def control(self, name: str) -> Arm:
        """Return a control with the same views and the same encoder forwards.

        name: "views_only" switches the pretext's loss off; "random_target" permutes its targets.
        """
        switch = f'pretext.{self.pretext}.control="{name}"'
        return evolve(
            self,
            name=f"{self.name}+{name}",
            kind="control",
            set=(*self.set, switch),
            like=self.name,
        )


@frozen
class Extra:
    """A secondary experiment: some arms with another base configuration or other settings.

    arms: names, or roles such as "@best" (see `Plan.role`).
    config: another base configuration; None uses the protocol's.
    split: the split that is used as the test split.
    metric: the reported metric; None uses the protocol's.
    scale: multiplier of the reported metric; 100 reports a share in points.
    """

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    set: tuple[str, ...] = ()
    config: str | None = None
    factor: float = 1.0
    split: str = "test"
    metric: str | None = None
    scale: float = 100.0


@frozen
class Protocol:
    """All that decides what is run and how it is compared.

    metric: chooses trials and arms: its value on the validation split at the last step.
    headline: arms, by name or role (see `Plan.role`), that run with all `headline_seeds`.
    baseline: the arm that the others are compared with.
    close_points: arms within this many points of the best one run with `close_seeds`.
    semi_best_of: how many of the best arms also run with unlabeled samples.
    equal_compute: arms that spend more compute on supervised training; the better one is used.
    unlabeled: the settings that keep unlabeled samples.
    forwards_per_cpu_s: images encoded per CPU second, for the estimate of a dry run.
    settings: settings of every run in a rehearsal; empty otherwise.
    """

    name: str
    config: str
    metric: str
    steps: int
    tune_steps: int
    tune_seed: int
    screen_seeds: tuple[int, ...]
    headline_seeds: tuple[int, ...]
    close_seeds: tuple[int, ...]
    headline: tuple[str, ...]
    forwards_per_cpu_s: float
    arms: dict[str, Arm] = field(factory=dict)
    baseline: str = "sl"
    close_points: float = 0.0
    semi_best_of: int = 0
    equal_compute: tuple[str, ...] = ()
    unlabeled: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    extras: tuple[Extra, ...] = ()

    def base(self, config: str | None = None) -> Path:
        """Return the file of a base configuration; None means the protocol's own."""
        return FOLDER / "bases" / (config or self.config)

    def metric_of(self, stage: str) -> str:
        """Return the metric of a stage: an extra may have its own."""
        for extra in self.extras:
            if extra.name == stage and extra.metric:
                return extra.metric
        return self.metric

    def rehearsal(self, settings: tuple[str, ...]) -> Protocol:
        """Return the same plan with two steps a run and one seed, to test that every arm runs.

        settings: applied to every run.
        """
        arms = {name: evolve(arm, factor=1.0) for name, arm in self.arms.items()}
        extras = [evolve(extra, seeds=extra.seeds[:1], factor=1.0) for extra in self.extras]
        one_seed = self.screen_seeds[:1]
        return evolve(
            self,
            name=f"{self.name}-try",
            steps=2,
            tune_steps=2,
            arms=arms,
            extras=tuple(extras),
            screen_seeds=one_seed,
            headline_seeds=one_seed,
            close_seeds=one_seed,
            settings=settings,
        )


def load(name: str) -> Protocol:
    """Load the protocol with this name.

    Raises MtlError if there is no such protocol, or if one of its keys is unknown.
    """
    tables = _read_tables(name)
    arms = tables.get("arms", {})
    tables["arms"] = {
        label: {"name": label, **_trials_like(arm, arms), **arm} for label, arm in arms.items()
    }
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(tables, Protocol)
    except cattrs.ClassValidationError as error:
        problems = "; ".join(cattrs.transform_error(error))
        raise MtlError(f"{name}.toml: {problems}") from None


def _trials_like(arm: dict[str, Any], arms: dict[str, Any]) -> dict[str, Any]:
    """Return the trials of the arm named by `like`; an arm's own trials override them."""
    like = arm.get("like")
    return {"trials": arms[like]["trials"]} if like in arms else {}


def _read_tables(name: str) -> dict[str, Any]:
    """Read the tables of a protocol file.

    `extends = "NAME"` takes missing keys from that protocol, and missing arms one by one.
    """
    file = FOLDER / f"{name}.toml"
    if not file.exists():
        known = [other.stem for other in FOLDER.glob("*.toml")]
        raise MtlError(f"there is no protocol {name!r}; {nearest(name, known)}")
    tables: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    if "extends" not in tables:
        return tables
    extended = _read_tables(tables.pop("extends"))
    arms = extended["arms"] | tables.get("arms", {})
    return extended | tables | {"arms": arms}
