"""From an `Experiment` to TOML.

Every default is written out, so the file keeps its meaning if a default changes.
"""

from __future__ import annotations

from typing import Any

import attrs
import tomli_w

from ..contracts import Component
from ..errors import MtlError
from ..registry.components import component_name, is_default
from .experiment import DataEntry, Experiment, PretextEntry, TaskEntry
from .overrides import Table, without_none
from .strict import converter

EVALUATED = "validation"
"""The label of the augmentation that evaluation and prediction use."""


def dump(experiment: Experiment) -> str:
    """Return TOML that parses to an equal experiment.

    Raises MtlError for a path that is not UTF-8: TOML can't contain it.
    """
    text = tomli_w.dumps(tables_of(experiment))
    require_utf8(text, "a run can't save")
    return text


def require_utf8(text: str, what: str) -> None:
    """Raise MtlError with the first line that UTF-8 can't hold. what: how the message begins."""
    for line in text.splitlines():
        try:
            line.encode()
        except UnicodeEncodeError as error:
            shown = line.encode("utf-8", "backslashreplace").decode()
            raise MtlError(
                f"{what} {shown}: this name is not UTF-8; rename the folder or the file"
            ) from error


def tables_of(experiment: Experiment) -> Table:
    """Return the tables of a TOML file that describes this experiment.

    Keys with the value None, and default augmentations that only training can use, are left out.
    """
    e = experiment
    tables = {
        "seed": e.seed,
        "plugins": list(e.plugins),
        "encoder": {**component_table(e.encoder), "freeze": e.freeze},
        "task": {label: _entry_table(entry) for label, entry in e.tasks.items()},
        "pretext": {label: _entry_table(entry) for label, entry in e.pretexts.items()},
        "weighting": component_table(e.weighting),
        "data": {label: _entry_table(entry) for label, entry in e.data.items()},
        "input": converter.unstructure(e.input),
        "views": converter.unstructure(e.views),
        "augment": {**component_table(e.augment), **_further_augmentations(e)},
        "optimizer": {
            **component_table(e.optimizer),
            **converter.unstructure(e.parameter_groups),
        },
        "schedule": converter.unstructure(e.schedule),
        "train": converter.unstructure(e.train),
        "callback": {label: component_table(callback) for label, callback in e.callbacks.items()},
    }
    return {key: without_none(value) for key, value in tables.items() if value not in ({}, [])}


def toml_value(value: object) -> Any:
    """Convert a Python value to a TOML value. A component becomes its table."""
    if isinstance(value, TaskEntry | PretextEntry | DataEntry):
        return without_none(_entry_table(value))
    if isinstance(value, Component):
        return without_none(component_table(value))
    return without_none(converter.unstructure(value))


def _further_augmentations(experiment: Experiment) -> Table:
    """Return the tables [augment.<label>] of augmentations that are not defaults of the catalog.

    [augment.validation] is always written, because a saved network depends on it.
    """
    return {
        label: component_table(augmentation)
        for label, augmentation in experiment.augmentations.items()
        if label == EVALUATED or not is_default(label, augmentation)
    }


def component_table(component: Component) -> Table:
    """Return the table of a component: its name, and all its fields."""
    return {"name": component_name(type(component)), **converter.unstructure(component)}


def _entry_table(entry: TaskEntry | PretextEntry | DataEntry) -> Table:
    """Return the table of a component together with the core's own keys."""
    names = [f.name for f in attrs.fields(type(entry)) if f.name != "component"]
    own = {name: getattr(entry, name) for name in names}
    return {**component_table(entry.component), **converter.unstructure(own)}
