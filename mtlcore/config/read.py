"""From TOML tables to an `Experiment`: the class that each table names, and the values of its keys.

The table of a component holds the fields of its class. In [task.*], [pretext.*] and [data.*] it
also holds keys of the core: the fields of `TaskEntry`, `PretextEntry` and `DataEntry`. All problems
are collected, and raised as one error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from cattrs.errors import CattrsError
from torch import nn

from ..contracts import Component
from ..errors import MtlError
from ..files import expanded
from ..kinds import KINDS
from ..registry.catalog import Catalog
from ..registry.catalog import catalog as installed
from ..registry.components import default_of
from ..registry.plugin_file import MARK, PluginFile, split_entry
from .checks import conflicts
from .experiment import (
    DataEntry,
    Experiment,
    Freeze,
    Input,
    ParameterGroups,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)
from .overrides import Table, plain
from .problems import explain, unknown_key
from .strict import converter
from .weights_of_run import run_of, with_weights_of

T = TypeVar("T")

SECTIONS = (
    "seed",
    "plugins",
    "encoder",
    "task",
    "pretext",
    "weighting",
    "data",
    "input",
    "views",
    "augment",
    "optimizer",
    "schedule",
    "train",
    "callback",
)
"""The keys at the top of a file."""

ENTRY_CLASSES: dict[str, type] = {"task": TaskEntry, "pretext": PretextEntry, "dataset": DataEntry}
"""Kind -> the class of the keys that the core reads in its tables."""

ENTRIES: dict[str, tuple[str, type]] = {
    KINDS[kind].table: (kind, cls) for kind, cls in ENTRY_CLASSES.items()
}
"""Section -> the kind of its components, and the class of the core's own keys."""

DEFAULT_ENCODER = "resnet_small"

SINGLE_KEYS: dict[str, tuple[str, ...]] = {
    "encoder": ("freeze",),
    "optimizer": tuple(f.name for f in attrs.fields(ParameterGroups)),
}
"""Section with one component -> the keys of it that the core reads."""

# Metrics are named "<label>/<name>", so a label occurs once over these sections.
LABELED = ("task", "pretext", "callback")

SETTINGS: dict[str, type] = {
    "input": Input,
    "views": Views,
    "schedule": Schedule,
    "train": Train,
}
"""Section -> the class of its settings."""

# Attributes of torch's containers (`type`, `train`, `copy`), which can't be keys in them.
# Heads are in an nn.ModuleDict, and what a weighting learns is in an nn.ParameterDict.
MODULE_ATTRIBUTES = frozenset([*dir(nn.ModuleDict()), *dir(nn.ParameterDict())])

Built = Any
"""A component or an entry of whichever class the configuration names.

It is checked already, but a type checker can't know its class. None after a problem.
"""


def parse(
    tables: Mapping[str, object], catalog: Catalog | None = None, base: Path | None = None
) -> Experiment:
    """Return the experiment that these tables describe.

    catalog: the known components. None: those of every installed plugin.
    base: the folder to which `plugins` are relative. None: the current folder.

    Raises MtlError with one line for each problem.
    """
    known = installed() if catalog is None else catalog

    # A copy: one-file plugins are loaded for this experiment alone.
    reader = Reader(known.copy())
    plugins = reader.plugins(tables.get("plugins", []), base or Path())
    reader.unknown(tables, SECTIONS, "")

    tables = {key: tables.get(key, {}) for key in SECTIONS} | {"seed": tables.get("seed", 0)}
    entries = {section: reader.entries(section, tables[section]) for section in ENTRIES}
    reader.labels({section: tables[section] for section in LABELED})
    augment, further = reader.augment(tables["augment"])
    encoder, freeze = reader.split(tables["encoder"], "encoder")
    run = run_of(encoder)
    if run is not None:
        encoder = reader.weights_of(run, encoder, tables["train"])
    optimizer, groups = reader.split(tables["optimizer"], "optimizer")
    fields: Table = {
        "encoder": reader.component(
            "encoder", "encoder", encoder, DEFAULT_ENCODER, SINGLE_KEYS["encoder"]
        ),
        "freeze": reader.freeze(freeze.get("freeze", "none")),
        "optimizer": reader.component(
            "optimizer", "optimizer", optimizer, "adamw", SINGLE_KEYS["optimizer"]
        ),
        "parameter_groups": reader.structured(groups, ParameterGroups, "optimizer"),
        "weighting": reader.component("weighting", "weighting", tables["weighting"], "equal"),
        "augment": reader.component("augmentation", "augment", augment, "strong"),
        "augmentations": reader.augmentations(further),
        "callbacks": reader.callbacks(tables["callback"]),
        "seed": reader.structured(tables["seed"], int, "seed"),
    }

    # Absent settings keep the defaults of `Experiment`: those of [train] differ from `Train()`.
    for key, kind in SETTINGS.items():
        if tables[key] != {}:
            fields[key] = reader.structured(tables[key], kind, key)
    reader.raise_problems()

    experiment = Experiment(
        tasks=entries["task"],
        pretexts=entries["pretext"],
        data=entries["data"],
        plugins=plugins,
        **fields,
    )
    if run is not None:
        experiment = attrs.evolve(experiment, train=attrs.evolve(experiment.train, init_from=run))
    reader.problems += conflicts(experiment)
    reader.raise_problems()
    return experiment


class Reader:
    """Reads tables and collects problems. After the first problem its results have no meaning.

    problems: one line each.
    cause: the original error of the first plugin that failed.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.problems: list[str] = []
        self.cause: BaseException | None = None

    def raise_problems(self) -> None:
        """Raise MtlError if there are problems."""
        if self.problems:
            raise MtlError("\n".join(self.problems)) from self.cause

    def table(self, value: object, path: str) -> Table:
        """Return a copy of a table. Anything else is a problem, and the result is empty."""
        if isinstance(value, Mapping):
            return dict(value)
        self.problems.append(f"{path} = {value!r}: expected a table")
        return {}

    def unknown(self, keys: Iterable[str], known: Collection[str], path: str) -> set[str]:
        """Return the unknown keys. Each is a problem."""
        unknown = {key for key in keys if key not in known}
        self.problems += [unknown_key(path, key, known) for key in sorted(unknown)]
        return unknown

    def structured(self, value: object, kind: type[T], path: str) -> T | None:
        """Return a value as `kind`. If it can't be converted: all its problems, and None."""
        try:
            return converter.structure(value, kind)
        except (CattrsError, ValueError, TypeError, MtlError, ExceptionGroup) as error:
            self.problems += explain(error, path)
            return None

    def plugins(self, listed: object, base: Path) -> tuple[str, ...]:
        """Load the one-file plugins, and return their absolute paths with their hashes.

        Raises MtlError at once if there is a problem: their components are needed for all the rest.
        """
        names = self.structured(listed, tuple[str, ...], "plugins")
        self.raise_problems()
        files: dict[str, PluginFile] = {}
        for name in names or ():
            path, sha256 = split_entry(name)
            file = PluginFile.read(base / expanded(path))
            if sha256:
                file.require(sha256)
            if not self.catalog.holds(file):
                self.catalog.load_file(file)
            files.setdefault(file.sha256, file)
        return tuple(f"{file.path}{MARK}{file.sha256}" for file in files.values())

    def freeze(self, value: object) -> Freeze | None:
        """Return `encoder.freeze`."""
        kind: Any = Freeze
        read: Freeze | None = self.structured(value, kind, "encoder.freeze")
        if isinstance(read, int) and read < 1:
            self.problems.append(f"encoder.freeze = {read}: expected at least 1 stage")
        return read

    def weights_of(self, run: Path, encoder: Table, train: object) -> Table:
        """Return the table [encoder] with the `weights` of a run. [train] must name no other."""
        other = isinstance(train, Mapping) and plain(train.get("init_from"))
        if other and expanded(str(other)).absolute() != run:
            self.problems.append(
                f'encoder.weights = "{run}" and train.init_from = "{other}" are two runs: set one'
            )
        try:
            return with_weights_of(run, encoder, DEFAULT_ENCODER)
        except MtlError as error:
            self.problems.append(str(error))
            return {key: value for key, value in encoder.items() if key != "weights"}

    def split(self, value: object, section: str) -> tuple[Table, Table]:
        """Split a table into the keys of its component, and those that the core reads."""
        table = self.table(value, section)
        own = {key: table.pop(key) for key in SINGLE_KEYS[section] if key in table}
        return table, own

    def component(
        self, kind: str, path: str, value: object, name: str, own: Collection[str] = ()
    ) -> Built:
        """Return the component of one table.

        name: the component's name if the table has no key `name`.
        own: the core's keys. They are valid, and removed from the table already.
        """
        table = self.table(value, path)
        chosen = table.pop("name", name)
        if not isinstance(chosen, str):
            self.problems.append(f"{path}.name = {chosen!r}: expected a string")
            return None
        try:
            cls = self.catalog.find(kind, chosen)
        except MtlError as error:
            self.problems.append(f"{path}: {error}")
            self.cause = self.cause or error.__cause__
            return None

        fields = _init_fields(cls)
        unknown = self.unknown(table, [*map(_key, fields), *own, "name"], path)
        table = {key: inner for key, inner in table.items() if key not in unknown}
        self._fill(table, fields, path, chosen, name)
        return self.structured(table, cls, path)

    def _fill(
        self,
        table: Table,
        fields: Sequence[attrs.Attribute[Any]],
        path: str,
        name: str,
        label: str,
    ) -> None:
        """Set the keys that follow from names.

        They are the first field of a family (the part of `name` after ":"), and the annotation that
        a task reads (its label).
        """
        _, colon, member = name.partition(":")
        if colon:
            first = _key(fields[0])
            if first in table:
                self.problems.append(f"{path}.{first}: name = {name!r} sets this key already")
            table[first] = member

        reads = next((f for f in fields if f.name == "reads"), None)
        if reads is None or not path.startswith("task."):
            return
        if not table.get("reads") and reads.default in ("", attrs.NOTHING):
            table["reads"] = label

    def entries(self, section: str, value: object) -> dict[str, Built]:
        """Return label -> entry of [task.*], [pretext.*] or [data.*].

        Tasks and pretexts of weight 0 are checked, too, and then left out.
        """
        kind, cls = ENTRIES[section]
        known = [f.name for f in attrs.fields(cls) if f.name != "component"]
        found: dict[str, Built] = {}
        for label, table in self.table(value, section).items():
            path = f"{section}.{label}"
            rest = self.table(table, path)
            own = {key: rest.pop(key) for key in known if key in rest}
            off = section != "data" and _is_zero(own.get("weight"))
            if off:
                del own["weight"]  # 0 does not pass the validator

            # After a problem the component is None. The entry is built all the same, so that
            # problems with the core's keys are reported, too.
            component = self.component(kind, path, rest, label, known)
            entry = self.structured({"component": component, **own}, cls, path)
            if not off:
                found[label] = entry
        return found

    def labels(self, tables: Mapping[str, object]) -> None:
        """Check that labels can name modules, and that each occurs once over these sections."""
        owner: dict[str, str] = {}
        for section, table in tables.items():
            if not isinstance(table, Mapping):
                continue
            for label in sorted(table):
                if label in owner:
                    self.problems.append(
                        f"{section}.{label}: {owner[label]}.{label} has the same label: "
                        f"rename one, and set name = {label!r} in its table"
                    )
                elif not label.isidentifier() or label in MODULE_ATTRIBUTES:
                    self.problems.append(
                        f"{section}.{label}: {label!r} can't be a label: "
                        "expected a word such as pose_2"
                    )
                owner.setdefault(label, section)

    def callbacks(self, value: object) -> dict[str, Built]:
        """Return label -> component of [callback.*]."""
        tables = self.table(value, "callback").items()
        return {
            label: self.component("callback", f"callback.{label}", table, label)
            for label, table in tables
        }

    def augment(self, value: object) -> tuple[Table, Table]:
        """Split [augment] into the keys of the run's augmentation and the tables [augment.<label>].

        A table under a key of the augmentation itself belongs to the former.
        """
        table = self.table(value, "augment")
        name = table.get("name", "strong")
        cls = self.catalog.of_kind("augmentation").get(name) if isinstance(name, str) else None
        keys = {f.alias for f in attrs.fields(cls)} if cls else set()  # type: ignore[arg-type]
        further = {
            key: inner
            for key, inner in table.items()
            if isinstance(inner, Mapping) and key not in keys
        }
        own = {key: inner for key, inner in table.items() if key not in further}
        return own, further

    def augmentations(self, tables: Mapping[str, object]) -> dict[str, Built]:
        """Return label -> augmentation.

        They are the explicit [augment.*], and every augmentation of the catalog that needs no key.
        """
        found: dict[str, Built] = {}
        for name, cls in self.catalog.of_kind("augmentation").items():
            if default := default_of(cls):
                found[name] = default
        for label, table in tables.items():
            found[label] = self.component("augmentation", f"augment.{label}", table, label)
        return found


def _init_fields(cls: type[Component]) -> list[attrs.Attribute[Any]]:
    """Return the fields that are keys of the component's table."""
    return [f for f in attrs.fields(cls) if f.init]  # type: ignore[arg-type]


def _key(field: attrs.Attribute[Any]) -> str:
    """Return the key of a field in a table."""
    return field.alias or field.name


def _is_zero(weight: object) -> bool:
    number = plain(weight)
    return isinstance(number, int | float) and not isinstance(number, bool) and number == 0
