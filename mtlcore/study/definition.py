"""A study, as its TOML file describes it: arms, seeds, tuning, controls, equal compute, extras.

The keys of the file are the fields of the classes below. A minimal study has `config`, `seeds` and
`[arms.NAME]` tables with `set`. The keys after `seeds` that end in `_seeds`, and the roles, are for
studies in stages: screen many arms with few seeds, then compare the best ones with many.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen
from attrs.validators import and_, ge, gt, lt, optional

Control = Literal["views_only", "random_target"]
CONTROLS: tuple[Control, ...] = ("views_only", "random_target")
Equal = Literal["encoder", "data", "input", "steps"]
"""What all arms share, unless the study lists it in `differ`."""

share = and_(gt(0.0), lt(1.0))


@frozen
class Pretraining:
    """[arms.NAME.pretraining]: the first part of a run trains on pretexts alone, without tasks.

    The second part starts from the encoder of the first.

    share: share of the run's steps, above 0 and below 1.
    set: settings of this part, as `mtl train --set` takes them. They can't set `seed` and steps.
    """

    share: float = field(validator=share)
    set: tuple[str, ...]


@frozen
class Arm:
    """[arms.NAME]: one way to train.

    set: what differs from the base configuration, as `mtl train --set` takes it.
    trials: settings to tune, a list for each trial. The trial with the best validation metric is
        used.
    like: another arm. Its chosen trial is used instead of tuning.
    factor: multiplier of the study's steps.
    pretext: label or labels of the pretexts that controls switch off (default: those that the
        baseline does not have).
    controls: the controls that make sense for this arm.
    pretraining: the first part of the run; without it, a run has one part.
    kind: for roles and stages. "sl": supervised alone. "hmtl": labeled samples only. "semi":
        unlabeled samples too. "rival": another method on the same samples. "control".
    views: batches encoded in a step, for the estimate of compute and the role "@one_view".
    semi: whether the arm can also train on unlabeled samples.
    """

    name: str
    kind: Literal["arm", "sl", "hmtl", "semi", "control", "rival"] = "arm"
    views: int = field(default=1, validator=ge(1))
    set: tuple[str, ...] = ()
    trials: tuple[tuple[str, ...], ...] = ((),)
    like: str | None = None
    pretext: str | tuple[str, ...] = ()
    factor: float = field(default=1.0, validator=gt(0.0))
    pretraining: Pretraining | None = None
    controls: tuple[Control, ...] = CONTROLS
    semi: bool = True

    @property
    def pretexts(self) -> tuple[str, ...]:
        """The labels of the pretexts that controls switch off."""
        return (self.pretext,) if isinstance(self.pretext, str) else self.pretext

    def with_unlabeled(self, unlabeled: tuple[str, ...]) -> Arm:
        """Return the same arm with as many unlabeled samples as labeled ones in each step.

        It encodes two batches a step, or three if the pretext compares the clean view with another.

        unlabeled: the settings that keep unlabeled samples.
        """
        settings = (*self.set, *unlabeled)
        if self.views > 1:
            # The pretext has a view of its own. It encodes the unlabeled samples only, so that the
            # number of encoded batches stays at two.
            only = [f'pretext.{label}.samples="unlabeled"' for label in self.pretexts]
            settings = (*settings, *only)
        return evolve(self, name=f"{self.name}+all", kind="semi", views=2, set=settings)

    def control(self, name: str) -> Arm:
        """Return a control with the same views and the same encoder forwards.

        name: "views_only" switches the pretext's loss off; "random_target" permutes its targets.
        """
        switches = [f'pretext.{label}.control="{name}"' for label in self.pretexts]
        return evolve(
            self,
            name=f"{self.name}+{name}",
            kind="control",
            set=(*self.set, *switches),
            like=self.name,
        )

    def longer(self, factor: float) -> Arm:
        """Return the same arm with more steps: what it reaches at the compute of another arm."""
        return evolve(
            self,
            name=f"{self.name}+x{factor:g}",
            kind="control",
            factor=self.factor * factor,
            like=self.name,
        )


@frozen
class Extra:
    """[[extras]]: a secondary experiment, some arms with another base or other settings.

    arms: names, or roles such as "@best".
    seeds: its own; `set` can't set `seed`.
    factor: multiplier of the study's steps; `set` can't set steps.
    config: another base configuration, relative to the study; default: the study's.
    split: the split that is used as the test split.
    metric: the reported metric; default: the study's.
    scale: multiplier of the reported metric. Default: as in the tables of the arms, 100 for a share
        where higher is better (points), else 1.
    """

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    set: tuple[str, ...] = ()
    config: str | None = None
    factor: float = field(default=1.0, validator=gt(0.0))
    split: str = "test"
    metric: str | None = None
    scale: float | None = None


@frozen
class Definition:
    """All that decides what is run and how it is compared: the keys of a study file.

    name: default: the name of the file.
    config: the base configuration, relative to the study file.
    plugins: one-file plugins, relative to the study file, in addition to those of `config`.
    metric: chooses trials and is compared: its value on the validation split at the last step
        (default: the main metric of the base, see `train.best`).
    higher_is_better: direction of `metric` (default: that of the metric itself).
    seeds: every arm runs with each of these seeds.
    arms: the arms, at least two.
    baseline: the arm that the others are compared with (default: the first one).
    controls: each arm with a pretext is also compared with these controls of itself.
    equal_compute: true adds the baseline with more steps, at the compute of the arms that encode
        more images. A list names arms that spend more compute on the baseline's method; the better
        one is used.
    steps: optimizer steps of a run (default: `train.steps` of the base).
    tune_steps: steps of a trial (default: `steps`).
    tune_seed: seed of the trials.
    differ: what may differ between arms: "encoder", "data", "input" or "steps".
    test: "asked": the test split is read only by `mtl study table --test`. "rows": each run after
        the tuning is evaluated on it, as a study that is written before it is run may do.
    screen_seeds: every arm runs with these seeds; the first one ranks the arms for their roles.
    headline: arms, by name or role, that run with all `headline_seeds`.
    headline_seeds: see `headline`.
    close_seeds: seeds of the two best arms with their controls, and of arms close to the best.
    close_points: arms within this many points of the best one are close.
    semi_best_of: how many of the best arms also run with unlabeled samples.
    unlabeled: the settings that keep unlabeled samples.
    extras: secondary experiments.
    forwards_per_cpu_s: images encoded per CPU second, to estimate compute before the first run.
    settings: settings of every run, after those of the arm. They can't set `seed` and steps.
    """

    config: str
    name: str = ""
    plugins: tuple[str, ...] = ()
    metric: str | None = None
    higher_is_better: bool | None = None
    seeds: tuple[int, ...] = ()
    arms: dict[str, Arm] = field(factory=dict)
    baseline: str = ""
    controls: tuple[Control, ...] = ()
    equal_compute: bool | tuple[str, ...] = ()
    steps: int | None = field(default=None, validator=optional(gt(0)))
    tune_steps: int | None = field(default=None, validator=optional(gt(0)))
    tune_seed: int = 0
    differ: tuple[Equal, ...] = ()
    test: Literal["asked", "rows"] = "asked"
    screen_seeds: tuple[int, ...] = ()
    headline: tuple[str, ...] = ()
    headline_seeds: tuple[int, ...] = ()
    close_seeds: tuple[int, ...] = ()
    close_points: float = 0.0
    semi_best_of: int = 0
    unlabeled: tuple[str, ...] = ()
    extras: tuple[Extra, ...] = ()
    forwards_per_cpu_s: float | None = field(default=None, validator=optional(gt(0.0)))
    settings: tuple[str, ...] = ()

    def base(self, config: str | None = None) -> Path:
        """Return the file of a base configuration; None means the study's own."""
        return Path(config or self.config)

    @property
    def full_steps(self) -> int:
        """Steps of a run of factor 1. `read` and `load` set `steps`."""
        assert self.steps is not None
        return self.steps

    @property
    def trial_steps(self) -> int:
        """Steps of a trial."""
        return self.tune_steps or self.full_steps

    @property
    def equal_compute_arms(self) -> tuple[str, ...]:
        """The names of the arms in `equal_compute`."""
        return () if isinstance(self.equal_compute, bool) else self.equal_compute

    def metric_of(self, stage: str) -> str | None:
        """Return the metric of a stage: an extra may have its own. None: the main metric."""
        for extra in self.extras:
            if extra.name == stage and extra.metric:
                return extra.metric
        return self.metric

    def rehearsal(self, settings: tuple[str, ...]) -> Definition:
        """Return the same study with two steps a run and one seed, to test that every arm runs.

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
            seeds=self.seeds[:1],
            screen_seeds=one_seed,
            headline_seeds=one_seed,
            close_seeds=one_seed,
            settings=settings,
        )
