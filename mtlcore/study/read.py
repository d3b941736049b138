"""Read a study from its TOML file. All problems of the file are one error, raised at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import evolve
from cattrs.errors import CattrsError

from ..config.overrides import Table, read_toml
from ..config.problems import explain
from ..config.strict import converter
from ..errors import MtlError, nearest
from ..files import decoded, exists, expanded, in_shell, read_file
from .definition import Definition
from .plan import ROLES, STAGES, Plan
from .results import Results

_IN_ARMS = re.compile(r"^arms\[([^\]]*)\]")
EXPERIMENT = frozenset({"data", "encoder", "pretext", "task", "train"})
"""Tables of an experiment, and never of a study."""
_NAME = re.compile(r"[^\s/\\+@.-][^\s/\\+@]*")


def read(file: Path, configs: Path | None = None) -> Definition:
    """Return the study of a TOML file.

    configs: the folder to which `config` is relative (default: that of the file).

    Raises MtlError with one line for each problem. The configurations are not loaded.
    """
    tables = read_tables(file)
    if "arms" not in tables and tables.keys() & EXPERIMENT:
        raise MtlError(
            f"{file} is an experiment, not a study: `mtl study new {in_shell(file)} --vary "
            "pretext=puzzling,rotation` writes a study of it"
        )
    definition = structured(tables, str(file))
    folder = configs or file.parent

    def located(name: str) -> str:
        return str((folder / expanded(name)).absolute())

    extras = []
    for extra in definition.extras:
        config = located(extra.config) if extra.config else None
        extras.append(evolve(extra, config=config))
    plugins = [str((file.parent / name).absolute()) for name in definition.plugins]
    return evolve(
        definition,
        name=definition.name or file.stem,
        config=located(definition.config),
        plugins=tuple(plugins),
        extras=tuple(extras),
    )


def read_tables(file: Path) -> Table:
    """Return the tables of a study file.

    `extends = "NAME"` takes missing keys from NAME.toml beside it, and missing arms one by one.
    """
    return _extended(file, ())


def _extended(file: Path, below: tuple[Path, ...]) -> Table:
    """Return the tables of a file. below: the files that extend it."""
    tables = _toml(file)
    if "extends" not in tables:
        return tables
    name = tables.pop("extends")
    other = file.with_name(f"{name}.toml")
    if not isinstance(name, str) or other in (file, *below):
        raise MtlError(
            f"{file}: extends = {name!r}: expected the name of another study beside it, without "
            ".toml, that does not extend this one"
        )
    if not exists(other):
        raise MtlError(f"{file}: extends = {name!r}: there is no {other}")
    extended = _extended(other, (file, *below))
    arms, own = extended.get("arms", {}), tables.get("arms", {})
    if isinstance(arms, dict) and isinstance(own, dict):
        own = arms | own
    return extended | tables | {"arms": own}


def _toml(file: Path) -> Table:
    try:
        data = read_file(file)
        return read_toml(decoded(data))
    except OSError as error:
        raise MtlError(
            f"{file} can't be read: {error.strerror or error}; "
            "`mtl study new CONFIG --vary ...` writes a study"
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MtlError(f"{file} is not valid TOML: {error}") from error


def structured(tables: Table, shown: str) -> Definition:
    """Return the study that these tables describe. shown: the name of the file in messages."""
    arms = tables.get("arms", {})
    if isinstance(arms, dict):
        named = {label: _named(label, arm, arms) for label, arm in arms.items()}
        tables = tables | {"arms": named}
    try:
        definition: Definition = converter.structure(tables, Definition)
    except (CattrsError, ValueError, TypeError, MtlError, ExceptionGroup) as error:
        lines = [_with_arm(line.lstrip(".")) for line in explain(error, "")]
        raise MtlError("\n  ".join([f"{shown}:", *lines])) from None
    definition = evolve(definition, baseline=definition.baseline or next(iter(arms), ""))
    problems = [*_problems(definition)]
    if problems:
        raise MtlError("\n  ".join([f"{shown}:", *problems]))
    return definition


def _named(label: str, arm: Any, arms: Table) -> Any:
    """Return the table of an arm with its name, and with the trials of the arm in `like`."""
    if not isinstance(arm, dict):
        return arm
    other = arms.get(str(arm.get("like")))
    trials = other.get("trials") if isinstance(other, dict) else None
    inherited = {} if trials is None else {"trials": trials}
    return {"name": label, **inherited, **arm}


def _with_arm(line: str) -> str:
    return _IN_ARMS.sub(r"arms.\1", line)


def _problems(definition: Definition) -> Iterator[str]:
    """Yield a line for each name that the study does not have, and for what is missing."""
    arms = definition.arms
    if len(arms) < 2:
        yield "arms: a study compares two arms or more: add tables [arms.NAME] with set = [...]"
        return
    for name, arm in arms.items():
        if not _NAME.fullmatch(name):
            yield f"arms.{name}: expected a word without spaces, /, + and @"
        if not arm.trials:
            yield f"arms.{name}.trials = []: expected a list of settings for each trial"
        if arm.like is not None and arm.like not in arms:
            yield f"arms.{name}.like = {arm.like!r}: no such arm; {nearest(arm.like, arms)}"
        elif arm.like is not None and arms[arm.like].like is not None:
            yield (
                f"arms.{name}.like = {arm.like!r}: arms.{arm.like} has no trials of its own (its "
                "`like`): name an arm that is tuned"
            )
    if not definition.seeds and not definition.headline_seeds:
        yield "seeds is missing: expected a list of whole numbers, such as seeds = [0, 1, 2]"
    if definition.equal_compute is True and not definition.seeds:
        yield "equal_compute = true needs `seeds`: name the arms that spend more compute instead"
    if definition.headline and not definition.screen_seeds:
        yield "screen_seeds is missing: roles of `headline` are ranked by the first one"
    for key, seeds in _seeds(definition).items():
        if len(set(seeds)) < len(seeds):
            yield f"{key} = {list(seeds)}: a seed appears twice"
    baseline = definition.baseline
    if baseline not in arms:
        yield f"baseline = {baseline!r}: no such arm; {nearest(baseline, arms)}"
    yield from _unknown_arms(definition)


def _seeds(definition: Definition) -> dict[str, tuple[int, ...]]:
    keys = ("seeds", "screen_seeds", "headline_seeds", "close_seeds")
    found = {key: getattr(definition, key) for key in keys}
    for extra in definition.extras:
        found[f"extras.{extra.name}.seeds"] = extra.seeds
    return found


def _unknown_arms(definition: Definition) -> Iterator[str]:
    """Yield a line for each arm or role that is named in a list and does not exist."""
    plan = Plan(definition, Results((), definition))
    words = {"headline": definition.headline, "equal_compute": definition.equal_compute_arms}
    for extra in definition.extras:
        words[f"extras.{extra.name}.arms"] = extra.arms
        if extra.name in (*STAGES, "main"):
            yield f"extras.{extra.name}: this is the name of a stage: choose another"
        if not _NAME.fullmatch(extra.name):
            yield f"extras.{extra.name}: expected a word without spaces, /, + and @"
        if [other.name for other in definition.extras].count(extra.name) > 1:
            yield f"extras.{extra.name}: two extras have this name"
    for key, names in words.items():
        for name in names:
            try:
                if name.startswith("@") and name not in ROLES:
                    raise MtlError(f"there is no role {name!r}; {nearest(name, ROLES)}")
                if not name.startswith("@"):
                    plan.arm(name)
            except MtlError as error:
                yield f"{key}: {error}"
