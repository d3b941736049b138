"""From TOML tables to an `Experiment`: which class each table names, and what its keys say.

A table of a component holds the keys of its plugin (the class's fields) and, in [task.*], [pretext.*] and [data.*], a
few that the core itself knows (the fields of `TaskEntry`, `PretextEntry`, `DataEntry`). All problems are collected,
then raised in one error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
from cattrs.errors import CattrsError
from torch import nn

from ..contracts import Component
from ..errors import MtlError
from ..registry.catalog import Catalog
from ..registry.catalog import catalog as installed
from ..registry.components import component_name
from ..registry.plugin_file import PluginFile
from .checks import conflicts
from .experiment import (
    DataEntry,
    Experiment,
    Input,
    Optimizer,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)
from .overrides import plain
from .problems import explain, unknown_key
from .strict import converter

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
ENTRIES: dict[str, tuple[str, type]] = {
    "task": ("task", TaskEntry),
    "pretext": ("pretext", PretextEntry),
    "data": ("dataset", DataEntry),
}
LABELED = (
    "task",
    "pretext",
    "callback",
)  # figures are named "<label>/<name>", so their labels differ
SETTINGS: dict[str, type] = {
    "input": Input,
    "views": Views,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "train": Train,
}
_MODULE_WORDS = frozenset(
    dir(nn.ModuleDict())
)  # `type`, `train`, `keys`: no module can be called so


def parse(
    tables: Mapping[str, Any], catalog: Catalog | None = None, base: Path | None = None
) -> Experiment:
    """The experiment that these tables describe.

    catalog: what names are looked up in; default: every installed plugin. base: the folder that `plugins` are
    relative to; default: the current one. Raises MtlError with one line a problem.
    """
    reader = Reader((installed() if catalog is None else catalog).copy())
    plugins = reader.plugins(tables.get("plugins", []), base or Path())
    reader.unknown(tables, SECTIONS, "")
    tables = {key: tables.get(key, {}) for key in SECTIONS} | {"seed": tables.get("seed", 0)}
    entries = {section: reader.entries(section, tables[section]) for section in ENTRIES}
    reader.labels({section: tables[section] for section in LABELED})
    augment, further = reader.augment(tables["augment"])
    given: dict[str, Any] = {
        "encoder": reader.component("encoder", "encoder", tables["encoder"], "resnet_small"),
        "weighting": reader.component("weighting", "weighting", tables["weighting"], "equal"),
        "augment": reader.component("augmentation", "augment", augment, "strong"),
        "augmentations": reader.augmentations(further),
        "callbacks": reader.callbacks(tables["callback"]),
        "seed": reader.structured(tables["seed"], int, "seed"),
    }
    given |= {
        key: reader.structured(tables[key], kind, key)
        for key, kind in SETTINGS.items()
        if tables[key] != {}
    }
    reader.raise_problems()
    experiment = Experiment(
        tasks=entries["task"],
        pretexts=entries["pretext"],
        data=entries["data"],
        plugins=plugins,
        **given,
    )
    reader.problems += conflicts(experiment)
    reader.raise_problems()
    return experiment


class Reader:
    """Collects problems while it reads; what it gives back means nothing once there is one."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.problems: list[str] = []
        self.cause: BaseException | None = None

    def raise_problems(self) -> None:
        if self.problems:
            raise MtlError("\n".join(self.problems)) from self.cause

    def table(self, value: Any, path: str) -> dict[str, Any]:
        """A copy of the table; empty, with a problem told, where it is none."""
        if isinstance(value, Mapping):
            return dict(value)
        self.problems.append(f"{path} = {value!r}: expected a table")
        return {}

    def unknown(self, keys: Iterable[str], known: Collection[str], path: str) -> set[str]:
        """The keys that are not known, each told."""
        strange = {key for key in keys if key not in known}
        self.problems += [unknown_key(path, key, known) for key in sorted(strange)]
        return strange

    def structured(self, value: Any, kind: type[T], path: str) -> T | None:
        """The value as `kind`; None, with every problem told, where it is not."""
        try:
            return converter.structure(value, kind)
        except (CattrsError, ValueError, TypeError, MtlError, ExceptionGroup) as error:
            self.problems += explain(error, path)
            return None

    def plugins(self, listed: Any, base: Path) -> tuple[str, ...]:
        """Load the one-file plugins -> their absolute paths with their hashes. Without them nothing else can be read."""
        names = self.structured(listed, tuple[str, ...], "plugins")
        self.raise_problems()
        files: dict[str, PluginFile] = {}
        for name in names or ():
            path, _, sha256 = name.rpartition("#sha256=") if "#sha256=" in name else (name, "", "")
            file = PluginFile.read(base / Path(path).expanduser())
            if sha256:
                file.require(sha256)
            if not self.catalog.holds(file):
                self.catalog.load_file(file)
            files.setdefault(file.sha256, file)
        return tuple(f"{file.path}#sha256={file.sha256}" for file in files.values())

    def component(
        self, kind: str, path: str, value: Any, name: str, own: Collection[str] = ()
    ) -> Any:
        """The component of one table. name: if the table gives none. own: the core's keys, already taken out."""
        table = self.table(value, path)
        given = table.pop("name", name)
        if not isinstance(given, str):
            self.problems.append(f"{path}.name = {given!r}: expected a string")
            return None
        try:
            cls = self.catalog.find(kind, given)
        except MtlError as error:
            self.problems.append(f"{path}: {error}")
            self.cause = self.cause or error.__cause__
            return None
        fields = [f for f in attrs.fields(cls) if f.init]  # type: ignore[arg-type]
        strange = self.unknown(table, [*(f.alias for f in fields), *own, "name"], path)
        table = {key: v for key, v in table.items() if key not in strange}
        self._fill(table, fields, path, given, name)
        return self.structured(table, cls, path)

    def _fill(
        self, table: dict[str, Any], fields: list[Any], path: str, name: str, label: str
    ) -> None:
        """Keys that names give: the part behind a family's ":", and the annotation that a task reads."""
        _, colon, tail = name.partition(":")
        if colon and fields[0].alias in table:
            self.problems.append(
                f"{path}.{fields[0].alias}: given a second time by name = {name!r}"
            )
        if colon:
            table[fields[0].alias] = tail
        reads = next((f for f in fields if f.name == "reads"), None)
        if (
            path.startswith("task.")
            and reads
            and not table.get("reads")
            and reads.default in ("", attrs.NOTHING)
        ):
            table["reads"] = label

    def entries(self, section: str, value: Any) -> dict[str, Any]:
        """label -> entry, of [task.*], [pretext.*] or [data.*]; those of weight 0 are checked and left out."""
        kind, cls = ENTRIES[section]
        known = [f.name for f in attrs.fields(cls) if f.name != "component"]
        found: dict[str, Any] = {}
        for label, table in self.table(value, section).items():
            path = f"{section}.{label}"
            rest = self.table(table, path)
            own = {key: rest.pop(key) for key in known if key in rest}
            off = section != "data" and _is_zero(own.get("weight"))
            if off:
                del own["weight"]
            component = self.component(kind, path, rest, label, known)
            entry = self.structured({"component": component, **own}, cls, path)
            if not off:
                found[label] = entry
        return found

    def labels(self, tables: Mapping[str, Any]) -> None:
        """Labels name modules and figures: words, each given once over these sections."""
        owner: dict[str, str] = {}
        for section, table in tables.items():
            for label in sorted(table) if isinstance(table, Mapping) else ():
                if label in owner:
                    self.problems.append(
                        f"{section}.{label}: {owner[label]}.{label} has that label too: rename one, and give its table "
                        f"name = {label!r}"
                    )
                elif not label.isidentifier() or label in _MODULE_WORDS:
                    self.problems.append(
                        f"{section}.{label}: {label!r} can't be a label: expected a word such as pose_2"
                    )
                owner.setdefault(label, section)

    def callbacks(self, value: Any) -> dict[str, Any]:
        """label -> component, of [callback.*]."""
        tables = self.table(value, "callback").items()
        return {
            label: self.component("callback", f"callback.{label}", table, label)
            for label, table in tables
        }

    def augment(self, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """[augment] -> the keys of the run's own augmentation, and the further tables [augment.<label>]."""
        table = self.table(value, "augment")
        name = table.get("name", "strong")
        cls = self.catalog.of_kind("augmentation").get(name) if isinstance(name, str) else None
        keys = {f.alias for f in attrs.fields(cls)} if cls else set()  # type: ignore[arg-type]
        further = {key: v for key, v in table.items() if isinstance(v, Mapping) and key not in keys}
        return {key: v for key, v in table.items() if key not in further}, further

    def augmentations(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """The explicit [augment.*], and every augmentation of the catalog that needs no key."""
        found: dict[str, Any] = {}
        for name, cls in self.catalog.of_kind("augmentation").items():
            if default := default_of(cls):
                found[name] = default
        for label, table in tables.items():
            found[label] = self.component("augmentation", f"augment.{label}", table, label)
        return found


def default_of(cls: type[Component]) -> Component | None:
    """The component with every key at its default; None where it needs one."""
    if any(f.init and f.default is attrs.NOTHING for f in attrs.fields(cls)):  # type: ignore[arg-type]
        return None
    return cls()


def is_default(label: str, component: Component) -> bool:
    """Would the catalog give the same without a table?"""
    return component_name(type(component)) == label and default_of(type(component)) == component


def _is_zero(weight: Any) -> bool:
    said = plain(weight)
    return isinstance(said, int | float) and not isinstance(said, bool) and said == 0
