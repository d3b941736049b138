"""Groups of samples, such as all images of one person, which stay in one split.

A sample without a group ("" or blank) says nothing about where it came from: it is a group of its
own.
"""

from __future__ import annotations

import numpy as np

from ..contracts import Categories
from ..contracts.texts import Texts

# A cell of a table holds no null character, so no group of the user has such a name.
UNKNOWN = "\0"


def without_group(group: Categories) -> np.ndarray:
    """Return which samples have no group, (N,) bool."""
    blank = np.array([not name.strip() for name in group.names.tolist()], dtype=bool)
    if not blank.any():
        return np.zeros(len(group), dtype=bool)
    return np.asarray(blank[group.codes])


def with_own_groups(group: Categories, unknown: np.ndarray, keys: Texts) -> Categories:
    """Return groups in which each of the `unknown` samples, (N,) bool, is a group of its own.

    keys: (N,). A new group is named by the key of its sample, so that no split depends on the
    order of the samples.
    """
    if not unknown.any():
        return group
    own = [UNKNOWN + key for key in keys[unknown]]
    codes = group.codes.astype(np.int64)  # a copy
    codes[unknown] = len(group.names) + np.arange(len(own))
    return Categories(codes, [*group.names.tolist(), *own])
