"""Whether an experiment is the one that a run was started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .experiment import Experiment
from .write import tables_of

RESUMABLE = "train.devices"
"""The key that a resumed run may change: it is the same run."""

# What a run sets itself: fields that tasks learn from the data, the cache size, the micro-batches,
# and the paths of its copies of plugin files.
_SET_BY_RUN = ("task.", "input.cache_size", "train.micro_batches")
_IGNORED = (RESUMABLE, "plugins")


def differences(given: Experiment, saved: Experiment) -> list[str]:
    """Return a line for each setting in which an experiment differs from that of a run."""
    now, before = dict(_flat(tables_of(given))), dict(_flat(tables_of(saved)))
    lines: list[str] = []
    for key in dict.fromkeys([*before, *now]):
        value = now.get(key)
        is_free = value in (None, [], "") and key.startswith(_SET_BY_RUN)
        if key in _IGNORED or is_free or before.get(key) == value:
            continue
        lines.append(f"{key}: {_shown(before.get(key))} in the run, {_shown(value)} here")
    return lines


def _flat(table: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of each key that is no table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)
