"""Groups of samples, such as all images of one person, which stay in one split that a run cuts.

Official splits stay as they are, also where they divide a group. A sample without a group ("" or
blank) says nothing about where it came from: it is a group of its own.
"""

from __future__ import annotations

import numpy as np

from ..contracts import Categories
from ..contracts.texts import Texts
from ..errors import first_few

# A cell of a table holds no null character, so no group of the user has such a name.
OWN = "\0"
EXAMPLES = 3  # groups that a note names


def with_own_groups(group: Categories, keys: Texts) -> Categories:
    """Return groups in which each sample without a group is a group of its own.

    group: (N,) names. keys: (N,). A new group is named by the key of its sample, so that no split
    depends on the order of the samples.
    """
    names = group.names.tolist()
    blank = np.array([not name.strip() for name in names], dtype=bool)
    if not blank.any():
        return group
    unknown = np.flatnonzero(blank[group.codes])
    own = [OWN + key for key in keys[unknown]]
    codes = group.codes.astype(np.int64)  # a copy
    codes[unknown] = len(names) + np.arange(len(own))
    return Categories(codes, [*names, *own])


def group_notes(group: Categories | None, split: Categories) -> dict[str, int]:
    """Return note -> number: of samples without a group, and of groups in several splits.

    group: (N,) from `with_own_groups`. split: (N,) names; samples in the split "" do not count.
    """
    notes: dict[str, int] = {}
    if group is None:
        return notes
    used = split != ""
    alone = [name for name in group[used].used() if name.startswith(OWN)]
    if alone:
        notes["samples have no group; each of them is a group of its own"] = len(alone)
    names = _divided(group[used], split[used])
    if names:
        note = "groups are in several splits, since official splits stay as they are"
        notes[f"{note}: {first_few(names, EXAMPLES)}"] = len(names)
    return notes


def _divided(group: Categories, split: Categories) -> list[str]:
    """Return the names of the groups whose samples are in several splits, sorted."""
    splits, position = split.unique()
    pairs = np.unique(group.codes.astype(np.int64) * len(splits) + position)
    codes, counts = np.unique(pairs // max(1, len(splits)), return_counts=True)
    return sorted(group.names[codes[counts > 1]].tolist())
