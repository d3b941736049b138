"""The catalog: the component classes of every loaded plugin, by kind and name.

Each plugin loads in isolation. One that fails is recorded with its reason and reported in one
warning; all others load. Looking up a component of a failed plugin raises its original error.

A plugin file replaces an installed component of the same kind and name: the file is what its author
works on, or what a run was trained with. The record of the installed component becomes "shadowed".

`switches.py` lists the environment variables that select plugins.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pluggy
from attrs import evolve

from ..contracts import BASES, Component
from ..errors import MtlError, nearest
from .components import component_name, fault, is_component
from .hooks import GROUP, PluginWarning, Specs
from .plugin_file import PluginFile
from .records import Provider, Record, one_line
from .switches import Switches

C = TypeVar("C", bound=type[Component])


class Catalog:
    """The component classes of every loaded plugin, by kind and name."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Specs)
        self._classes: dict[tuple[str, str], type[Component]] = {}
        self._records: list[Record] = []
        self._examples: dict[str, Path] = {}

    # ------------------------------------------------------------ loading

    @classmethod
    def load(
        cls,
        entry_points: Iterable[EntryPoint] | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Catalog:
        """Load every installed plugin that the environment variables allow.

        mtlcore's own plugins load first, then the others by distribution and name.
        A plugin that fails causes one warning.
        Raises MtlError instead where MTLCORE_PLUGINS_FATAL is set.
        """
        if entry_points is None:
            entry_points = importlib.metadata.entry_points(group=GROUP)
        found = [(Provider.of(point), point) for point in entry_points]
        found.sort(key=lambda pair: _order(pair[0]))
        switches = Switches.read(environ)
        switches.warn_about_unknown([provider for provider, _ in found])

        catalog = cls()
        for provider, point in found:
            reason = switches.reason(provider)
            if reason:
                blocked = Record(provider, "blocked", provider.name, reason=reason)
                catalog._records.append(blocked)
            else:
                name = f"{provider.distribution}:{provider.name}"
                catalog._load_plugin(provider, point.load, name, switches.fatal)
        return catalog

    def copy(self) -> Catalog:
        """A catalog with the same plugins. Files loaded into it do not change this one."""
        twin = Catalog()
        for name, plugin in self._manager.list_name_plugin():
            twin._manager.register(plugin, name)
        twin._classes = dict(self._classes)
        twin._records = list(self._records)
        twin._examples = dict(self._examples)
        return twin

    def load_file(self, path: str | os.PathLike[str] | PluginFile) -> PluginFile:
        """Load a one-file plugin. Its components replace installed ones of the same kind and name.

        Warns (PluginWarning) where the text of the replaced plugin differs.
        Raises MtlError where the file is missing, broken, or already loaded, and where another
        plugin FILE already provides one of its components.
        """
        file = path if isinstance(path, PluginFile) else PluginFile.read(path)
        if self.holds(file):
            raise MtlError(f"plugin file {file.path} is already loaded")
        self._load_plugin(Provider.of_file(file), file.module, file.module_name, fatal=True)
        return file

    def register(self, cls: type[Component]) -> None:
        """Add one class of this process. A class that is defined again replaces its old version.

        Raises MtlError if the class is not a component, or if its name is taken.
        """
        if not is_component(cls):
            bases = ", ".join(base.__name__ for base in BASES.values())
            raise MtlError(f"{cls!r} can't be registered: expected a class derived from {bases}")
        if self._classes.get((cls.kind, component_name(cls))) is cls:
            return
        provider = Provider.of_class(cls)
        old = [r for r in self._records if r.provider == provider]
        others = [r for r in self._records if r.provider != provider]
        known = dict(self._classes)
        for record in old:
            known.pop((record.kind or "", record.name), None)
        before, self._records, self._classes = (self._records, self._classes), others, known
        record = self._add(cls, provider)
        if record.error is not None:
            self._records, self._classes = before
            taken = (cls.kind, component_name(cls)) in self._classes and fault(cls) is None
            hint = ": set another `name` in the class" if taken else ""
            raise MtlError(f"{provider.origin} can't be registered: {record.reason}{hint}")
        self._records.append(record)

    def holds(self, file: PluginFile) -> bool:
        """Whether this file, or a copy of it, is loaded."""
        return self._manager.has_plugin(file.module_name)

    def _load_plugin(
        self, provider: Provider, load: Callable[[], object], name: str, fatal: bool
    ) -> None:
        """Import one plugin and add its components. name: pluggy's unique name of the plugin."""
        before = len(self._records)
        try:
            self._register(load(), provider, name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code, isolated
            reason = one_line(error)
            failed = Record(provider, "failed", provider.name, reason=reason, error=error)
            self._records.append(failed)
        for record in self._records[before:]:
            if record.error is not None:
                _report_failure(record, fatal)

    def _register(self, plugin: object, provider: Provider, name: str) -> None:
        if self._manager.is_registered(plugin):
            raise MtlError(f"{provider.origin} is already registered by another entry point")
        self._manager.register(plugin, name)
        try:
            self._refuse_unknown_hooks(plugin)
            classes: list[object] = []
            for returned in self._call("mtl_components", plugin):
                classes += _as_list(returned)
            for examples in self._call("mtl_examples", plugin):
                self._examples.update(examples)
        except BaseException:
            # A plugin is in the catalog as a whole, or not at all.
            self._manager.unregister(plugin)
            raise
        for cls in classes:
            self._records.append(self._add(cls, provider))

    def _refuse_unknown_hooks(self, plugin: object) -> None:
        """Raise MtlError on a misspelled or missing hook, which pluggy silently accepts."""
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

    def _call(self, hook: str, plugin: object) -> list[Any]:
        """Call a hook of this plugin alone."""
        others = [p for p in self._manager.get_plugins() if p is not plugin]
        results: list[Any] = self._manager.subset_hook_caller(hook, others)()
        return results

    def _add(self, cls: object, provider: Provider) -> Record:
        """Add one class, or record why it is refused."""
        if not is_component(cls):
            bases = ", ".join(base.__name__ for base in BASES.values())
            reason = f"mtl_components returns {cls!r}: expected classes derived from one of {bases}"
            error = MtlError(reason)
            return Record(provider, "failed", provider.name, reason=reason, error=error)

        key = (cls.kind, component_name(cls))
        present = self._record_of(key)
        reason = fault(cls) or ""
        if present and not reason:
            reason = _conflict(present, provider)
        if reason:
            return Record(provider, "failed", key[1], key[0], reason, MtlError(reason))

        if present:
            self._shadow(present, provider)
        self._classes[key] = cls
        return Record(provider, "ok", key[1], key[0])

    def _record_of(self, key: tuple[str, str]) -> Record | None:
        """The record of the component that is in use under this (kind, name)."""
        for record in self._records:
            if record.status == "ok" and (record.kind, record.name) == key:
                return record
        return None

    def _shadow(self, installed: Record, provider: Provider) -> None:
        """Mark an installed component as replaced by a plugin file; warn where the texts differ."""
        assert installed.kind is not None
        assert provider.file is not None
        module = self._classes[installed.kind, installed.name].__module__
        same = provider.file.is_text_of(module)
        reason = f"replaced by {provider}" + (", which has the same text" if same else "")
        position = self._records.index(installed)
        self._records[position] = evolve(installed, status="shadowed", reason=reason)
        if not same:
            component = f"{installed.kind} {installed.name!r}"
            _warn_once(
                f"{component} comes from {provider.origin}, "
                f"which replaces {installed.provider} and differs from it"
            )

    # ------------------------------------------------------------ lookup

    @property
    def classes(self) -> Mapping[tuple[str, str], type[Component]]:
        """(kind, name) -> class."""
        return MappingProxyType(self._classes)

    def of_kind(self, kind: str) -> dict[str, type[Component]]:
        """The components of one kind: name -> class."""
        return {name: cls for (k, name), cls in self._classes.items() if k == kind}

    def find(self, kind: str, name: str) -> type[Component]:
        """The class of this kind and name. The name "timm:resnet18" finds the family `timm`.

        Raises MtlError where the name is unknown (with the nearest ones), where its plugin is
        blocked (with the variable), and where its plugin failed (chained from its error).
        """
        base, colon, _ = name.partition(":")
        cls = self._classes.get((kind, base))
        if cls is None:
            raise self._not_found(kind, base)
        if colon and not cls.family:
            raise MtlError(
                f"{kind} {base!r} is not a family of names: write {base!r} instead of {name!r}"
            )
        return cls

    def example(self, name: str) -> Path:
        """The TOML file of a shipped experiment. Raises MtlError where no plugin ships it."""
        if name not in self._examples:
            known = nearest(name, self._examples)
            raise MtlError(
                f"no plugin ships an experiment named {name!r}; {known}{self._failed_plugins()}"
            )
        return self._examples[name]

    def records(self) -> list[dict[str, str | None]]:
        """The rows of `mtl plugins --json`: all components, failed plugins, blocked plugins."""
        return [record.as_json() for record in self._records]

    def _not_found(self, kind: str, name: str) -> MtlError:
        for record in self._records:
            if record.status != "ok" and record.name == name and record.kind in (None, kind):
                verb = "failed" if record.status == "failed" else "is blocked"
                lost = MtlError(
                    f"{kind} {name!r}: its plugin {record.provider} {verb}: {record.reason}"
                )
                lost.__cause__ = record.error
                return lost

        known = nearest(name, self.of_kind(kind))
        unknown = MtlError(f"unknown {kind} {name!r}; {known}{self._failed_plugins()}")
        # A plugin that failed may be the one that has this component: show its traceback too.
        unknown.__cause__ = next((r.error for r in self._records if r.error is not None), None)
        return unknown

    def _failed_plugins(self) -> str:
        """The tail of a message about an unknown name: plugins that may have provided it."""
        failed = [f"{r.provider}: {r.reason}" for r in self._records if r.status == "failed"]
        if not failed:
            return ""
        return f" (these plugins failed and may have provided it: {'; '.join(failed)})"


@functools.cache
def catalog() -> Catalog:
    """Every installed plugin, loaded once per process."""
    return Catalog.load()


def register(cls: C) -> C:
    """Register a component class of a script or notebook in this process, and return the class.

    Use it as a decorator, above `@frozen`. Classes of installed plugins need no registration.
    Raises MtlError if the class is not a component, or if its name is taken.
    """
    catalog().register(cls)
    return cls


def _conflict(present: Record, provider: Provider) -> str:
    """Why this provider must not provide what `present` provides; "" where it replaces it."""
    if present.provider == provider:
        return f"{provider} returns the {present.kind} {present.name!r} twice"
    both = f"{present.kind} {present.name!r} is provided by {present.provider} and by {provider}"
    if provider.file is None:
        return both
    if present.provider.file is None:
        return ""
    return (
        f"{both}: two plugin files can't provide the same component; "
        "name one of them alone, or set another `name` in one of the classes"
    )


@functools.cache
def _warn_once(message: str) -> None:
    """Warn once per process: a command may read its configuration several times."""
    warnings.warn(message, PluginWarning, stacklevel=3)


def _report_failure(record: Record, fatal: bool) -> None:
    """Warn about a plugin that failed, or raise its error."""
    message = f"plugin {record.provider} failed: {record.reason}"
    if fatal:
        raise MtlError(message) from record.error
    warnings.warn(
        f"{message} (all other plugins are loaded; see `mtl plugins`)", PluginWarning, stacklevel=2
    )


def _as_list(returned: object) -> list[object]:
    if not isinstance(returned, list | tuple):
        raise MtlError(f"mtl_components returns {returned!r}: expected a list of classes")
    return list(returned)


def _order(provider: Provider) -> tuple[bool, str, str]:
    return provider.distribution != "mtlcore", provider.distribution or "", provider.name
