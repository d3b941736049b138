"""Whether an experiment is the one that a run was started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..image_size import image_size
from .experiment import Experiment
from .overrides import Table
from .write import tables_of

RESUMABLE = "train.devices"
"""The key that may differ when a run resumes. It does not change what the run computes."""

# What a run sets itself: fields that tasks learn from the data, the cache size, the micro-batches,
# and the paths of its copies of plugin files.
_CACHE_SIZE = "input.cache_size"
_SET_BY_RUN = ("task.", _CACHE_SIZE, "train.micro_batches")
_IGNORED = (RESUMABLE, "plugins")
_LABELED = ("task", "pretext", "data", "callback")  # tables that hold a table for each label


def differences(given: Experiment, saved: Experiment) -> list[str]:
    """Return a line for each setting in which an experiment differs from that of a run."""
    here, there = tables_of(given), tables_of(saved)
    # Compare labels first: in a missing table, each key would look as if the run had set it.
    lines = [*_different_labels(here, there)]
    now, before = dict(_flat(here)), dict(_flat(there))
    for key in dict.fromkeys([*before, *now]):
        value = now.get(key)
        if key in _IGNORED or before.get(key) == value or _is_free(key, value, before.get(key)):
            continue
        lines.append(f"{key}: {_shown(before.get(key))} in the run, {_shown(value)} here")
    return lines


def _different_labels(here: Table, there: Table) -> Iterator[str]:
    """Yield a line for each label that only one of them has, and remove its table."""
    for kind in _LABELED:
        now, before = here.get(kind, {}), there.get(kind, {})
        for label in [*before]:
            if label not in now:
                del before[label]
                yield f"{kind}.{label}: in the run, missing here"
        for label in [*now]:
            if label not in before:
                del now[label]
                yield f"{kind}.{label}: missing in the run, set here"


def _is_free(key: str, value: object, saved: object) -> bool:
    """Whether the run may have set this key itself, given this value in the experiment."""
    if value in (None, [], "") and key.startswith(_SET_BY_RUN):
        return True
    if key != _CACHE_SIZE or saved is None:
        return False
    # A run reduces the cache size to the size of its images.
    assert isinstance(value, int | list)
    assert isinstance(saved, int | list)
    given, reduced = image_size(value), image_size(saved)
    return given[0] >= reduced[0] and given[1] >= reduced[1]


def _flat(table: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of each key that is not a table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)
