"""Read rows whose settings have the key names of the time when they were made.

Rows in `benchmarks/results` are evidence and are never edited. Many configuration keys were renamed
after the first rows were made. `read_row` translates the settings of such a row, so that a row can
be compared with what its protocol sets today.

A row has the field "format" since the renames. Rows without it have format 1. Format 3 no longer
has train.tensorboard, which changed no result; no committed row sets it.
"""

from __future__ import annotations

import re

from mtlcore.study.results import Row
from mtlcore.study.training import FORMAT

OLD_VALUE, NEW_VALUE = '"unlabelled"', '"unlabeled"'

# Pattern of an old key -> the new key. A setting has at most one old key.
KEYS = {
    r"train\.optimizer": "optimizer.name",
    r"train\.(lr|weight_decay|momentum)": r"optimizer.\1",
    r"train\.schedule": "schedule.name",
    r"train\.(warmup|milestones)": r"schedule.\1",
    r"train\.decay": "schedule.gamma",
    r"recipes\.(.+)": r"augment.\1",
    r"observer\.(.+)": r"callback.\1",
    r"pretext\.([^.]+)\.rows": r"pretext.\1.samples",
    r"data\.([^.]+)\.unlabelled": r"data.\1.unlabeled",
    r"input\.unlabelled_batch": "input.unlabeled_batch",
    r"input\.store": "input.cache_size",
}


def translated(setting: str) -> str:
    """Return a setting "key=value" with today's key and value names.

    A setting without an old key is returned unchanged.
    """
    key, equals, value = setting.partition("=")
    for pattern, new in KEYS.items():
        match = re.fullmatch(pattern, key)
        if match:
            new_value = NEW_VALUE if value == OLD_VALUE else value
            return match.expand(new) + equals + new_value
    return setting


def read_row(row: Row) -> Row:
    """Return the row with today's names in its settings. The row itself stays as it is."""
    if row.get("format", 1) >= FORMAT:
        return row
    return row | {"set": [translated(setting) for setting in row["set"]]}
