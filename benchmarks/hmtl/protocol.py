"""A protocol: arms, seeds, steps, what is tuned on what budget, the rule by which an arm is chosen. Committed before it is run.

The words of the TOML file are the fields below. A change of a protocol that has been run makes a new one with a new name.
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
    """The first part of an arm: its encoder on pretexts alone, without tasks; the rest goes on from it. share: of the steps."""

    share: float
    set: tuple[str, ...]


@frozen
class Arm:
    """One way to train.

    kind: "sl", "hmtl" (labeled rows only), "semi" (unlabeled rows too), "rival" (whatever else is done with these rows). views:
    batches of labeled rows' size that are encoded in a step. set: what differs from the base configuration, as `mtl train --set`
    takes it. trials: what is tuned; the one that is best on validation is used. like: take that arm's chosen trial instead.
    pretext: the label that controls switch off. controls: those that it can have. semi: may it be fed by all images? factor: times
    the protocol's steps.
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

    def fed_by_all(self, unlabeled: tuple[str, ...]) -> Arm:
        """The same arm, its pretext fed by as many rows without labels in each step: two batches are
        encoded (three where the pretext compares the clean view with another).

        unlabeled: the settings that keep such rows. A pretext with a view of its own looks at them alone.
        """
        alone = () if self.views == 1 else (f'pretext.{self.pretext}.samples="unlabeled"',)
        return evolve(
            self, name=f"{self.name}+all", kind="semi", views=2, set=(*self.set, *unlabeled, *alone)
        )

    def control(self, word: str) -> Arm:
        """The same views and forwards, the pretext's loss off ("views_only") or its answers permuted ("random_target")."""
        switch = f'pretext.{self.pretext}.control="{word}"'
        return evolve(
            self,
            name=f"{self.name}+{word}",
            kind="control",
            set=(*self.set, switch),
            like=self.name,
        )


@frozen
class Extra:
    """A question beside the main one: some arms on another base or with other settings. arms: names, or roles ("@best").

    split: which one is the test. metric, scale: what the table tells (default: the protocol's metric, in points).
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
    """metric: the figure that chooses, on validation, at the last step. equal_compute: the arms that stand for SL given more.

    baseline: the arm that others are compared with. headline: arms by name or role ("@best": see `Plan.role`) that get the
    headline's seeds. semi_best_of: so many of the best arms are fed by all images, too.
    close_points: an arm so near to the best gets `close_seeds`. unlabeled: the settings that keep rows without labels.
    forwards_per_cpu_s: for the estimate of a dry run. settings: of a rehearsal, for every run.
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
        """The base configuration's file."""
        return FOLDER / "bases" / (config or self.config)

    def metric_of(self, stage: str) -> str:
        """The figure of a stage's runs: an extra may have its own."""
        return next((e.metric for e in self.extras if e.name == stage and e.metric), self.metric)

    def rehearsal(self, settings: tuple[str, ...]) -> Protocol:
        """The same plan with two steps a run and one seed: does every arm run here? settings: for every run."""
        arms = {name: evolve(arm, factor=1.0) for name, arm in self.arms.items()}
        extras = tuple(evolve(extra, seeds=extra.seeds[:1], factor=1.0) for extra in self.extras)
        one = self.screen_seeds[:1]
        return evolve(
            self,
            name=f"{self.name}-try",
            steps=2,
            tune_steps=2,
            arms=arms,
            extras=extras,
            screen_seeds=one,
            headline_seeds=one,
            close_seeds=one,
            settings=settings,
        )


def load(name: str) -> Protocol:
    """The protocol of that name. Raises MtlError where there is none, or a key is unknown."""
    tables = _tables(name)
    arms = tables.get("arms", {})
    tables["arms"] = {
        label: {"name": label, **_like(arm, arms), **arm} for label, arm in arms.items()
    }
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(tables, Protocol)
    except cattrs.ClassValidationError as error:
        raise MtlError(f"{name}.toml: {'; '.join(cattrs.transform_error(error))}") from None


def _like(arm: dict[str, Any], arms: dict[str, Any]) -> dict[str, Any]:
    """The trials of the arm whose choice this one takes."""
    return {"trials": arms[arm["like"]]["trials"]} if arm.get("like") in arms else {}


def _tables(name: str) -> dict[str, Any]:
    """A protocol's tables; `extends = "NAME"` takes what it does not say itself from that one, arm by arm."""
    file = FOLDER / f"{name}.toml"
    if not file.exists():
        raise MtlError(
            f"there is no protocol {name!r}; {nearest(name, (f.stem for f in FOLDER.glob('*.toml')))}"
        )
    tables: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    if "extends" not in tables:
        return tables
    older = _tables(tables.pop("extends"))
    return older | tables | {"arms": older["arms"] | tables.get("arms", {})}
