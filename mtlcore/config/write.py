"""From an `Experiment` to TOML.

Every default is written out, so the file keeps its meaning if a default changes.
"""

from __future__ import annotations

from typing import Any

import attrs
import tomli_w

from ..contracts import Component
from ..registry.components import component_name
from .experiment import DataEntry, Experiment, PretextEntry, TaskEntry
from .overrides import Table
from .read import is_default
from .strict import converter


def dump(experiment: Experiment) -> str:
    """Return TOML that parses to an equal experiment.

    Keys with the value None, and augmentations that need no table, are left out.
    """
    e = experiment
    tables = {
        "seed": e.seed,
        "plugins": list(e.plugins),
        "encoder": component_table(e.encoder),
        "task": {label: _entry_table(entry) for label, entry in e.tasks.items()},
        "pretext": {label: _entry_table(entry) for label, entry in e.pretexts.items()},
        "weighting": component_table(e.weighting),
        "data": {label: _entry_table(entry) for label, entry in e.data.items()},
        "input": converter.unstructure(e.input),
        "views": converter.unstructure(e.views),
        "augment": {**component_table(e.augment), **_further_augmentations(e)},
        "optimizer": converter.unstructure(e.optimizer),
        "schedule": converter.unstructure(e.schedule),
        "train": converter.unstructure(e.train),
        "callback": {label: component_table(callback) for label, callback in e.callbacks.items()},
    }
    written = {key: without_none(value) for key, value in tables.items() if value not in ({}, [])}
    return tomli_w.dumps(written)


def _further_augmentations(experiment: Experiment) -> Table:
    """Return the tables [augment.<label>] of augmentations that are not defaults of the catalog."""
    return {
        label: component_table(augmentation)
        for label, augmentation in experiment.augmentations.items()
        if not is_default(label, augmentation)
    }


def component_table(component: Component) -> Table:
    """Return the table of a component: its name, and all its fields."""
    return {"name": component_name(type(component)), **converter.unstructure(component)}


def _entry_table(entry: TaskEntry | PretextEntry | DataEntry) -> Table:
    """Return the table of a component together with the core's own keys."""
    names = [f.name for f in attrs.fields(type(entry)) if f.name != "component"]
    own = {name: getattr(entry, name) for name in names}
    return {**component_table(entry.component), **converter.unstructure(own)}


def without_none(value: Any) -> Any:
    """Remove None from dicts at any depth, since TOML has no null. Sets become sorted lists."""
    if isinstance(value, dict):
        return {key: without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list | tuple):
        return [without_none(inner) for inner in value]
    return value
