"""Plugins: how they are found, loaded one by one, and looked up by kind and name.

A plugin is a module (or an object) that implements hooks of `Specs`; an entry point of the group "mtlcore" names it, or
it is a single file. Each one loads alone: one that fails is recorded with its reason and told once, and everything else
goes on. Whoever asks for something that a failed plugin gives meets its original error.

A file that is named takes the place of what is installed under the same kind and name: it is what its author works on, or
what a run was trained with. The installed component is then on record as shadowed.

Environment variables; the first two are comma lists of entry-point names or distributions:
    MTLCORE_PLUGINS_BLOCK   leave these out
    MTLCORE_PLUGINS_ONLY    load these alone
    MTLCORE_PLUGINS_FATAL   "1": the first plugin that fails stops the program
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pluggy
from attrs import evolve, frozen

from ..contracts import KINDS, Component
from ..errors import MtlError, nearest
from .components import component_name, fault, is_component
from .plugin_file import PluginFile
from .torch_version_hint import torch_version_hint

GROUP = "mtlcore"
BLOCK, ONLY, FATAL = "MTLCORE_PLUGINS_BLOCK", "MTLCORE_PLUGINS_ONLY", "MTLCORE_PLUGINS_FATAL"
hookspec, hookimpl = pluggy.HookspecMarker(GROUP), pluggy.HookimplMarker(GROUP)


class Specs:
    """Every hook there is. A plugin implements those it needs, each marked with `@hookimpl`."""

    @hookspec
    def mtl_components(self) -> list[type[Component]]:  # type: ignore[empty-body]
        """The component classes that this plugin gives: frozen attrs classes, each of one kind."""

    @hookspec
    def mtl_examples(self) -> dict[str, Path]:  # type: ignore[empty-body]
        """Complete experiments that this plugin ships: name -> a TOML file. `mtl demo` trains the one named "demo"."""


class PluginWarning(UserWarning):
    """A plugin could not be loaded, and everything else goes on; or a plugin file takes the place of another one."""


@frozen
class Provider:
    """Where components come from: an entry point (origin: its module) or a file (name: its stem; origin: its path)."""

    name: str
    distribution: str | None
    version: str | None
    origin: str
    file: PluginFile | None = None

    @classmethod
    def of(cls, point: EntryPoint) -> Provider:
        dist = point.dist
        return cls(
            point.name, dist.name if dist else None, dist.version if dist else None, point.value
        )

    @classmethod
    def of_file(cls, file: PluginFile) -> Provider:
        return cls(file.path.stem, None, None, str(file.path), file)

    def __str__(self) -> str:
        owner = f" of {self.distribution} {self.version}" if self.distribution else ""
        return f"{self.name!r}{owner} ({self.origin})"

    def named_in(self, names: set[str]) -> bool:
        """Is its entry point or its distribution among these names?"""
        return self.name in names or _canonical(self.distribution or "") in {
            _canonical(n) for n in names
        }


@frozen(eq=False)
class Record:
    """One component, or a plugin that failed or was blocked before it gave any. error: the original one.

    status: "shadowed" is an installed component whose place a plugin file has taken.
    """

    provider: Provider
    status: Literal["ok", "failed", "blocked", "shadowed"]
    name: str
    kind: str | None = None
    reason: str = ""
    error: BaseException | None = None

    def as_json(self) -> dict[str, str | None]:
        """One row of `mtl plugins --json`."""
        p = self.provider
        return {
            "kind": self.kind,
            "name": self.name,
            "distribution": p.distribution,
            "version": p.version,
            "status": self.status,
            "origin": p.origin,
            "reason": self.reason,
        }


class Catalog:
    """The component classes of every loaded plugin, by kind and name."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Specs)
        self._classes: dict[tuple[str, str], type[Component]] = {}
        self._records: list[Record] = []
        self._examples: dict[str, Path] = {}

    # ------------------------------------------------------------------------------------------------ loading

    @classmethod
    def load(
        cls,
        entry_points: Iterable[EntryPoint] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Catalog:
        """Every plugin that is installed and not switched off; mtlcore's own come first, then by distribution and name.

        Raises MtlError where a plugin fails and MTLCORE_PLUGINS_FATAL is set; else warns, one line a plugin.
        """
        found = cls()
        points = (
            importlib.metadata.entry_points(group=GROUP) if entry_points is None else entry_points
        )
        offered = sorted(((Provider.of(p), p) for p in points), key=lambda pair: _order(pair[0]))
        switches = _Switches.read(environ)
        switches.warn_of_unknown([provider for provider, _ in offered])
        for provider, point in offered:
            if reason := switches.reason(provider):
                found._records.append(Record(provider, "blocked", provider.name, reason=reason))
            else:
                found._admit(provider, point.load, switches.fatal)
        return found

    def copy(self) -> Catalog:
        """The same plugins in a catalog of its own, which one-file plugins can join without touching this one."""
        twin = Catalog()
        for name, plugin in self._manager.list_name_plugin():
            twin._manager.register(plugin, name)
        twin._classes, twin._records, twin._examples = (
            dict(self._classes),
            list(self._records),
            dict(self._examples),
        )
        return twin

    def load_file(self, path: str | os.PathLike[str] | PluginFile) -> PluginFile:
        """Load a one-file plugin; its components take the place of installed ones of the same kind and name.

        Where such a one differs, a PluginWarning tells it. Raises MtlError where the file is missing, broken, or loaded already,
        and where another FILE gives one of its components.
        """
        file = path if isinstance(path, PluginFile) else PluginFile.read(path)
        if self.holds(file):
            raise MtlError(f"plugin file {file.path} is loaded already")
        self._admit(Provider.of_file(file), file.module, fatal=True, name=file.module_name)
        return file

    def holds(self, file: PluginFile) -> bool:
        """Is this file, or a copy of it, loaded already?"""
        return self._manager.has_plugin(file.module_name)

    def _admit(
        self, provider: Provider, importing: Callable[[], Any], fatal: bool, name: str | None = None
    ) -> None:
        before = len(self._records)
        try:
            self._register(
                importing(), provider, name or f"{provider.distribution}:{provider.name}"
            )
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way, and the others must go on
            self._records.append(
                Record(provider, "failed", provider.name, reason=one_line(error), error=error)
            )
        for record in self._records[before:]:
            if record.error is not None:
                _tell(record, fatal)

    def _register(self, plugin: Any, provider: Provider, name: str) -> None:
        if self._manager.is_registered(plugin):
            raise MtlError(f"{provider.origin} is registered already, by another entry point")
        self._manager.register(plugin, name)
        try:
            self._refuse_unknown_hooks(plugin)
            classes = [
                cls for given in self._ask("mtl_components", plugin) for cls in _listed(given)
            ]
            for examples in self._ask("mtl_examples", plugin):
                self._examples.update(examples)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        for cls in classes:
            self._records.append(self._added(cls, provider))

    def _refuse_unknown_hooks(self, plugin: Any) -> None:
        """pluggy takes a misspelled hook without a word, and a function without its marker is no hook at all."""
        known = [name for name in vars(Specs) if name.startswith("mtl_")]
        hooks = [caller.name for caller in self._manager.get_hookcallers(plugin) or []]
        if not hooks:
            raise MtlError(
                f"it implements no hook: mark one with @hookimpl; known: {', '.join(known)}"
            )
        for hook in hooks:
            if hook not in known:
                raise MtlError(f"it implements the unknown hook {hook!r}; {nearest(hook, known)}")
        self._manager.check_pending()

    def _ask(self, hook: str, plugin: Any) -> list[Any]:
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        answers: list[Any] = self._manager.subset_hook_caller(hook, others)()
        return answers

    def _added(self, cls: Any, provider: Provider) -> Record:
        if not is_component(cls):
            bases = ", ".join(base.__name__ for base in KINDS.values())
            reason = f"mtl_components gives {cls!r}: expected classes derived from one of {bases}"
            return Record(provider, "failed", provider.name, reason=reason, error=MtlError(reason))
        key = cls.kind, component_name(cls)
        giver = next(
            (r for r in self._records if r.status == "ok" and (r.kind, r.name) == key), None
        )
        reason = fault(cls) or (_conflict(giver, provider) if giver else "")
        if reason:
            return Record(provider, "failed", key[1], key[0], reason, MtlError(reason))
        if giver:
            self._shadow(giver, provider)
        self._classes[key] = cls
        return Record(provider, "ok", key[1], key[0])

    def _shadow(self, giver: Record, provider: Provider) -> None:
        """A plugin file takes the place of this installed component; it is told where their texts differ."""
        assert giver.kind is not None
        assert provider.file is not None
        same = provider.file.is_text_of(self._classes[giver.kind, giver.name].__module__)
        reason = f"{provider} takes its place" + (", with the same text" if same else "")
        self._records[self._records.index(giver)] = evolve(giver, status="shadowed", reason=reason)
        if not same:
            _warn_once(
                f"{giver.kind} {giver.name!r} comes from {provider.origin}, in the place of {giver.provider}, which differs"
            )

    # ------------------------------------------------------------------------------------------------ looking up

    @property
    def classes(self) -> Mapping[tuple[str, str], type[Component]]:
        """(kind, name) -> class."""
        return MappingProxyType(self._classes)

    def of_kind(self, kind: str) -> dict[str, type[Component]]:
        """name -> class, of one kind."""
        return {name: cls for (k, name), cls in self._classes.items() if k == kind}

    def find(self, kind: str, name: str) -> type[Component]:
        """The class of this kind and name; of "timm:resnet18" it is the family `timm`.

        Raises MtlError where it is unknown (with the nearest names), blocked (by which variable), or given by a plugin
        that failed (chained from its original error).
        """
        wanted, colon, _ = name.partition(":")
        cls = self._classes.get((kind, wanted))
        if cls is None:
            raise self._missing(kind, wanted)
        if colon and not cls.family:
            raise MtlError(
                f"{kind} {wanted!r} is no family of names: write {wanted!r} instead of {name!r}"
            )
        return cls

    def example(self, name: str) -> Path:
        """The TOML file of a shipped experiment. Raises MtlError where no plugin gives it."""
        if name not in self._examples:
            known = nearest(name, self._examples)
            raise MtlError(
                f"no plugin ships an experiment named {name!r}; {known}{self._suspects()}"
            )
        return self._examples[name]

    def records(self) -> list[dict[str, str | None]]:
        """One row a component, or a plugin that failed or is blocked: what `mtl plugins --json` prints."""
        return [record.as_json() for record in self._records]

    def _missing(self, kind: str, name: str) -> MtlError:
        for record in self._records:
            if record.status != "ok" and record.name == name and record.kind in (None, kind):
                verb = "failed" if record.status == "failed" else "is blocked"
                lost = MtlError(
                    f"{kind} {name!r}: its plugin {record.provider} {verb}: {record.reason}"
                )
                lost.__cause__ = record.error
                return lost
        unknown = MtlError(
            f"unknown {kind} {name!r}; {nearest(name, self.of_kind(kind))}{self._suspects()}"
        )
        unknown.__cause__ = next((r.error for r in self._records if r.error is not None), None)
        return unknown

    def _suspects(self) -> str:
        failed = [f"{r.provider}: {r.reason}" for r in self._records if r.status == "failed"]
        return (
            f" (these plugins failed, and may have given it: {'; '.join(failed)})" if failed else ""
        )


@functools.cache
def catalog() -> Catalog:
    """Every installed plugin, loaded once a process."""
    return Catalog.load()


@frozen
class _Switches:
    """The environment variables."""

    block: set[str]
    only: set[str]
    fatal: bool

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> _Switches:
        block, only = (
            {n.strip() for n in environ.get(v, "").split(",")} - {""} for v in (BLOCK, ONLY)
        )
        return cls(block, only, environ.get(FATAL, "").lower() not in ("", "0", "false", "no"))

    def reason(self, provider: Provider) -> str:
        """Why this plugin is switched off; "" where it is not."""
        if provider.named_in(self.block):
            return f"left out by {BLOCK}={','.join(sorted(self.block))}"
        if self.only and not provider.named_in(self.only):
            return f"not among {ONLY}={','.join(sorted(self.only))}"
        return ""

    def warn_of_unknown(self, offered: list[Provider]) -> None:
        known = {p.name for p in offered} | {p.distribution for p in offered if p.distribution}
        for variable, names in ((BLOCK, self.block), (ONLY, self.only)):
            for name in sorted(n for n in names if not any(p.named_in({n}) for p in offered)):
                said = f"{variable} names {name!r}, which is no installed plugin; {nearest(name, known)}"
                warnings.warn(said, PluginWarning, stacklevel=2)


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    known = torch_version_hint(error)
    said = " ".join(str(known or error).split())
    if known or isinstance(error, MtlError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _conflict(giver: Record, provider: Provider) -> str:
    """Why this provider can't give what `giver` gives; "" where it takes the place."""
    if giver.provider == provider:
        return f"{provider} gives the {giver.kind} {giver.name!r} twice"
    said = f"{giver.kind} {giver.name!r} is given by {giver.provider} and again by {provider}"
    if provider.file is None:
        return said
    if giver.provider.file is None:
        return ""
    return f"{said}: two plugin files can't give the same; name one of them alone, or give one of the classes another `name`"


@functools.cache
def _warn_once(said: str) -> None:
    """Once a process: a command may read its configuration several times."""
    warnings.warn(said, PluginWarning, stacklevel=3)


def _tell(record: Record, fatal: bool) -> None:
    said = f"plugin {record.provider} failed: {record.reason}"
    if fatal:
        raise MtlError(said) from record.error
    warnings.warn(f"{said} (the rest goes on; see `mtl plugins`)", PluginWarning, stacklevel=2)


def _listed(given: Any) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise MtlError(f"mtl_components gives {given!r}: expected a list of classes")
    return list(given)


def _order(provider: Provider) -> tuple[bool, str, str]:
    return provider.distribution != "mtlcore", provider.distribution or "", provider.name


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
