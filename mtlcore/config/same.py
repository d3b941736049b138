"""Whether an experiment is the one that a run was started with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import evolve, fields_dict

from ..image_size import image_size
from ..registry.plugin_file import split_entry
from .experiment import Experiment
from .overrides import Table
from .write import tables_of

FREE_TRAIN = (
    "steps",
    "epochs",
    "devices",
    "accelerator",
    "compile",
    "eval_every",
    "save_every",
    "log_every",
    "max_skipped",
)
"""Keys of [train] that may differ when a run resumes: no random draw depends on them."""

FREE_INPUT = ("prefetch",)
"""Keys of [input] that may differ when a run resumes: no result depends on them."""

FREE_DATA = ("root", "file")
"""Keys of [data.<label>] that may differ when a run resumes: the paths of the same data."""

# Not the keys of a table below it, such as `columns.root`: there, `root` is an annotation.
_FREE_DATA = re.compile(rf'("[^"]*"|[^.]*)\.({"|".join(FREE_DATA)})')

RESUMABLE = (
    *(f"train.{key}" for key in FREE_TRAIN),
    *(f"input.{key}" for key in FREE_INPUT),
    *(f"data.<label>.{key}" for key in FREE_DATA),
    "callback.<label>",
)
"""All keys that may differ when a run resumes, for messages."""

# What a run sets itself: fields that tasks learn from the data, the cache size, the micro-batches,
# and the paths of its copies of plugin files.
_CACHE_SIZE = "input.cache_size"
_SET_BY_RUN = ("task.", _CACHE_SIZE, "train.micro_batches")
_LABELED = ("task", "pretext", "data")  # tables that hold a table for each label


def is_resumable(key: str) -> bool:
    """Whether a resumed run may change this key, such as "train.steps" or "data.faces.root"."""
    section, _, rest = key.partition(".")
    if section == "train":
        return rest in FREE_TRAIN
    if section == "input":
        return rest in FREE_INPUT
    # The file of a plugin is pinned by its checksum, so only its path can differ.
    if section in ("callback", "plugins"):
        return True
    return section == "data" and _FREE_DATA.fullmatch(rest) is not None


def changed_keys(
    now: Table, before: Table, there: str, here: str, *, resumable: bool = False
) -> list[str]:
    """Return a line for each key with a changed value: "KEY: OLD there, NEW here".

    resumable: also for keys that a resumed run may change.
    """
    old, new = dict(flat(before)), dict(flat(now))
    lines: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key) and (resumable or not is_resumable(key)):
            lines.append(f"{key}: {_shown(old.get(key))} {there}, {_shown(new.get(key))} {here}")
    return lines


def with_resumable(saved: Experiment, given: Experiment) -> Experiment:
    """Return the experiment of a run with those keys of `given` that a resumed run may change."""
    train = evolve(saved.train, **{key: getattr(given.train, key) for key in FREE_TRAIN})
    settings = evolve(saved.input, **{key: getattr(given.input, key) for key in FREE_INPUT})
    data = {}
    for label, entry in saved.data.items():
        component = given.data[label].component
        fields = fields_dict(type(component))  # type: ignore[arg-type]
        moved = {key: getattr(component, key) for key in FREE_DATA if key in fields}
        own = evolve(entry.component, **moved)  # type: ignore[misc]
        data[label] = evolve(entry, component=own)
    known = {split_entry(plugin)[1] for plugin in saved.plugins}
    new = [plugin for plugin in given.plugins if split_entry(plugin)[1] not in known]
    plugins = (*saved.plugins, *new)
    return evolve(
        saved,
        train=train,
        input=settings,
        data=data,
        callbacks=given.callbacks,
        plugins=plugins,
    )


def differences(given: Experiment, saved: Experiment) -> list[str]:
    """Return a line for each setting in which an experiment differs from that of a run."""
    here, there = tables_of(given), tables_of(saved)
    # Compare labels first: in a missing table, each key would look as if the run had set it.
    lines = [*_different_labels(here, there)]
    now, before = dict(flat(here)), dict(flat(there))
    for key in dict.fromkeys([*before, *now]):
        value = now.get(key)
        if is_resumable(key) or before.get(key) == value or _is_free(key, value, before.get(key)):
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


def flat(table: Mapping[str, object], path: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted key and value of each key that is not a table. A part with a dot is quoted."""
    for key, value in table.items():
        part = f'{path}"{key}"' if "." in key else f"{path}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{part}.")
        else:
            yield part, value


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)
