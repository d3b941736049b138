"""From an `Experiment` to TOML: complete, with every default written out, so that the file means the same for ever."""

from __future__ import annotations

from typing import Any

import attrs
import tomli_w

from ..contracts import Component
from ..registry.components import component_name
from .experiment import DataEntry, Experiment, PretextEntry, TaskEntry
from .read import is_default
from .strict import converter


def dump(experiment: Experiment) -> str:
    """TOML that parses to an equal experiment. Keys that are None, and augmentations that need no table, are left out."""
    e = experiment
    tables = {
        "seed": e.seed,
        "plugins": list(e.plugins),
        "encoder": component_table(e.encoder),
        "task": {label: _entry(entry) for label, entry in e.tasks.items()},
        "pretext": {label: _entry(entry) for label, entry in e.pretexts.items()},
        "weighting": component_table(e.weighting),
        "data": {label: _entry(entry) for label, entry in e.data.items()},
        "input": converter.unstructure(e.input),
        "views": converter.unstructure(e.views),
        "augment": {**component_table(e.augment), **_further(e)},
        "optimizer": converter.unstructure(e.optimizer),
        "schedule": converter.unstructure(e.schedule),
        "train": converter.unstructure(e.train),
        "callback": {label: component_table(callback) for label, callback in e.callbacks.items()},
    }
    return tomli_w.dumps(
        {key: given(value) for key, value in tables.items() if value not in ({}, [])}
    )


def _further(experiment: Experiment) -> dict[str, Any]:
    """[augment.<label>]: the augmentations that the catalog would not give without a table."""
    return {
        label: component_table(augmentation)
        for label, augmentation in experiment.augmentations.items()
        if not is_default(label, augmentation)
    }


def component_table(component: Component) -> dict[str, Any]:
    return {"name": component_name(type(component)), **converter.unstructure(component)}


def _entry(entry: TaskEntry | PretextEntry | DataEntry) -> dict[str, Any]:
    own = {
        f.name: getattr(entry, f.name) for f in attrs.fields(type(entry)) if f.name != "component"
    }
    return {**component_table(entry.component), **converter.unstructure(own)}


def given(value: Any) -> Any:
    """Without what is None: TOML has no null."""
    if isinstance(value, dict):
        return {key: given(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, set | frozenset):
        value = sorted(value)
    return [given(inner) for inner in value] if isinstance(value, list | tuple) else value
