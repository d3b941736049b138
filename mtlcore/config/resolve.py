"""Convert an experiment that was built in Python to the one that its TOML file describes.

Both give the same run. A run starts from the latter, so values that a TOML file can't hold raise an
error before it starts.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import tomli_w

from ..contracts import Component
from ..errors import MtlError
from ..registry.catalog import Catalog
from ..registry.components import component_name
from ..registry.lookup import catalog_of
from ..registry.plugin_file import file_of
from .experiment import Experiment
from .load import as_toml, with_overrides
from .overrides import Overrides, apply
from .read import parse
from .weights_of_run import run_of
from .write import component_table, tables_of


def resolve(experiment: Experiment, overrides: Overrides = ()) -> Experiment:
    """Return the experiment as it would be read from its TOML file, with these overrides.

    Raises MtlError with one line for each problem: a component whose class is not registered, a
    value that TOML can't hold, settings in conflict.
    """
    problems = [*_unknown_classes(experiment, catalog_of(experiment.plugins))]
    if problems:
        raise MtlError("\n".join(problems))

    try:
        tables = tomllib.loads(tomli_w.dumps(tables_of(experiment)))
    except (TypeError, ValueError) as error:
        raise MtlError(f"the experiment has a value that TOML can't hold: {error}") from error
    overrides = as_toml(overrides)
    applied = apply(tables, overrides)
    try:
        read = parse(tables)
    except MtlError as error:
        raise MtlError("\n".join(with_overrides(error, applied))) from error.__cause__
    if not overrides:
        _require_equal(experiment, read)
    return read


def components_of(experiment: Experiment) -> Iterator[tuple[str, Component]]:
    """Yield each component with the path of its table."""
    e = experiment
    yield "encoder", e.encoder
    yield "weighting", e.weighting
    yield "optimizer", e.optimizer
    yield "augment", e.augment
    yield from ((f"task.{label}", entry.component) for label, entry in e.tasks.items())
    yield from ((f"pretext.{label}", entry.component) for label, entry in e.pretexts.items())
    yield from ((f"data.{label}", entry.component) for label, entry in e.data.items())
    yield from ((f"augment.{label}", component) for label, component in e.augmentations.items())
    yield from ((f"callback.{label}", component) for label, component in e.callbacks.items())


def _unknown_classes(experiment: Experiment, known: Catalog) -> Iterator[str]:
    """Yield a line for each component whose class the catalog does not find by its name."""
    for path, component in components_of(experiment):
        if component is None:
            yield f"{path} = None: expected a component"
            continue
        cls = type(component)
        found = known.classes.get((cls.kind, component_name(cls)))
        if found is not cls:
            yield f"{path}: {_unknown_class(cls, found)}"


def _unknown_class(cls: type[Component], found: type[Component] | None) -> str:
    shown = f"the class {cls.__name__} of {cls.__module__}"
    file = file_of(cls.__module__)
    if file is not None:
        return f"{shown} comes from a plugin file: add plugins=[{str(file)!r}] to the experiment"
    if found is None:
        return (
            f"{shown} is not registered, so no TOML file can name it: "
            f"call mtlcore.register({cls.__name__}), or decorate the class with @mtlcore.register"
        )
    name = f"{cls.kind} {component_name(cls)!r}"
    if (found.__module__, found.__qualname__) == (cls.__module__, cls.__qualname__):
        return f"{shown} was defined again later: create the component again, from the new class"
    return (
        f"{shown} is not the {name}, which is {found.__name__} of {found.__module__}: "
        "set another `name` in the class, and register it with mtlcore.register"
    )


def _require_equal(experiment: Experiment, read: Experiment) -> None:
    """Raise MtlError if a component differs from the one that is read from its table."""
    again = dict(components_of(read))
    if run_of(component_table(experiment.encoder)) is not None:
        # Its TOML table has the `weights` of that run instead.
        again["encoder"] = experiment.encoder
    problems: list[str] = []
    for path, component in components_of(experiment):
        if again.get(path) != component:
            problems.append(
                f"{path}: its TOML table gives another component: "
                f"expected {component!r}, got {again.get(path)!r}"
            )
    if problems:
        raise MtlError("\n".join(problems))
