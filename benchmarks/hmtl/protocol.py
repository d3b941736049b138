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


@frozen
class Pretraining:
    """The first part of an arm: the encoder alone, on pretexts; the rest of the arm's steps go on from it. share: of the steps."""

    share: float
    set: tuple[str, ...]


@frozen
class Arm:
    """One way to train.

    kind: "sl", "hmtl" (labelled rows only), "semi" (unlabelled rows too), "pretrain". views: encoder forwards of a labelled row in
    a step. set: what differs from the base configuration, as `mtl train --set` takes it. trials: what is tuned; the one that is
    better on validation is used. like: take that arm's chosen trial instead. pretext: the label that controls switch off.
    factor: times the protocol's steps.
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

    def fed_by_all(self) -> Arm:
        """The same arm, its pretext fed by images without labels, too."""
        return evolve(
            self,
            name=f"{self.name}+all",
            kind="semi",
            views=self.views,
            set=(*self.set, 'data.fer2013.unlabelled="keep"'),
        )

    def control(self, word: str) -> Arm:
        """The same views and forwards, the pretext's loss off ("views_only") or its answers permuted ("random_target")."""
        switch = f'pretext.{self.pretext}.control="{word}"'
        return evolve(self, name=f"{self.name}+{word}", kind="control", set=(*self.set, switch), like=self.name)


@frozen
class Extra:
    """A question beside the main one: some arms on another base or with other settings. arms: names, or roles ("@best")."""

    name: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    set: tuple[str, ...] = ()
    config: str | None = None
    factor: float = 1.0


@frozen
class Protocol:
    """metric: the figure that chooses, on validation, at the last step. equal_compute: the arms that stand for SL given more."""

    name: str
    config: str
    metric: str
    steps: int
    tune_steps: int
    tune_seed: int
    screen_seeds: tuple[int, ...]
    headline_seeds: tuple[int, ...]
    close_seeds: tuple[int, ...]
    close_points: float
    semi_best_of: int
    equal_compute: tuple[str, ...]
    forwards_per_cpu_s: float
    arms: dict[str, Arm] = field(factory=dict)
    extras: tuple[Extra, ...] = ()

    def base(self, config: str | None = None) -> Path:
        """The base configuration's file."""
        return FOLDER / (config or self.config)


def load(name: str) -> Protocol:
    """The protocol of that name. Raises MtlError where there is none, or a key is unknown."""
    file = FOLDER / f"{name}.toml"
    if not file.exists():
        raise MtlError(f"there is no protocol {name!r}; {nearest(name, (f.stem for f in FOLDER.glob('*.toml')))}")
    tables: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    tables["arms"] = {label: {"name": label, **arm} for label, arm in tables.get("arms", {}).items()}
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(tables, Protocol)
    except cattrs.ClassValidationError as error:
        raise MtlError(f"{file.name}: {'; '.join(cattrs.transform_error(error))}") from None
