"""Who is trained on, who validates, who tests, whose labels are kept: functions of the seed and of a dataset's own samples.

The order: a dataset's official splits (or a seeded 80 / 20 cut), then validation out of train, then `limit`, then the
share of labels. Nothing here depends on pretexts, weights or other datasets, so all arms of an experiment get the same
samples. Samples are handled in the order of their keys, so neither does it depend on the order in which a folder is listed.

N samples of one dataset. strata: (N,) int, what is kept in proportion. groups: (N,) int, samples that never part.
"""

from __future__ import annotations

import hashlib

import numpy as np
from attrs import frozen

from ..contracts import Annotation
from ..rng import LABELS, LIMIT, TEST, VALIDATION

TEST_SHARE = 0.2  # of a dataset that has no official splits


@frozen(eq=False)
class Assignment:
    """split: (N,) names, "" for samples that `limit` left out. labeled: (N,) bool, samples whose labels are kept."""

    split: np.ndarray
    labeled: np.ndarray


@frozen
class Rules:
    """What the configuration asks of one dataset (its label). validation, labels: shares. limit: samples of each split."""

    seed: int
    label: str
    validation: float = 0.1
    labels: float = 1.0
    limit: int | None = None


def assign(
    rules: Rules,
    keys: np.ndarray,
    strata: np.ndarray,
    split: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> Assignment:
    """The split of each sample, and whether its labels are kept.

    keys: (N,) unique strings. split: (N,) official names or None. group: (N,) names, or None: each sample for itself.
    A dataset that brings its own "validation" split keeps it: nothing is cut from its train.
    """
    order = np.argsort(keys, kind="stable")
    groups = (
        np.arange(len(keys)) if group is None else np.unique(group[order], return_inverse=True)[1]
    )
    name = None if split is None else split[order]
    found = _assign_sorted(rules, strata[order], name, groups)
    back = np.argsort(order, kind="stable")
    return Assignment(found.split[back], found.labeled[back])


def _assign_sorted(
    rules: Rules, strata: np.ndarray, split: np.ndarray | None, groups: np.ndarray
) -> Assignment:
    names = np.full(len(strata), "train", dtype=object) if split is None else split.astype(object)
    if split is None:
        names[cut(strata, groups, TEST_SHARE, generator(rules.seed, TEST, rules.label))] = "test"
    if not (names == "validation").any():
        train = np.flatnonzero(names == "train")
        drawn = cut(
            strata[train],
            groups[train],
            rules.validation,
            generator(rules.seed, VALIDATION, rules.label),
        )
        names[train[drawn]] = "validation"
    if rules.limit is not None:
        for part in sorted(set(names) - {""}):
            samples = np.flatnonzero(names == part)
            kept = thin(
                strata[samples], rules.limit, generator(rules.seed, LIMIT, rules.label, part)
            )
            names[samples[~kept]] = ""
    labeled = np.ones(len(names), dtype=bool)
    train = np.flatnonzero(names == "train")
    labeled[train] = subset(strata[train], rules.labels, generator(rules.seed, LABELS, rules.label))
    return Assignment(names.astype(str), labeled)


# ------------------------------------------------------------------------------------------------ draws


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator of this run's seed and this purpose alone."""
    digest = hashlib.blake2b(repr((seed, purpose)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def cut(
    strata: np.ndarray, groups: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """-> (N,) bool: about `share` of the samples, whole groups only, in proportion in every stratum.

    Where each sample is its own group, every stratum gives its share to within one sample. A group counts to the stratum that
    most of its samples lie in. Of two groups or more at least one is taken and one is left, unless the share is 0 or 1.
    """
    order, sizes = _shuffled_groups(strata, groups, rng)
    if share <= 0 or not len(order):
        return np.zeros(len(groups), dtype=bool)
    chosen = np.zeros(len(order), dtype=bool)
    seen = taken = 0
    for place, size in enumerate(
        sizes
    ):  # a group is taken where that brings what is taken nearer to what is owed
        seen += size
        if share * seen - taken >= size / 2 - 1e-9:
            chosen[place] = True
            taken += size
    if len(order) > 1 and share < 1:
        if not chosen.any():
            chosen[np.argmin(sizes)] = True
        if chosen.all():
            chosen[np.argmin(sizes)] = False
    return np.isin(groups, order[chosen])


def _shuffled_groups(
    strata: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[int]]:
    """-> groups in random order, stratum after stratum, and their numbers of samples."""
    names, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) == len(groups):
        main = strata[np.argsort(groups, kind="stable")]
    else:
        table = np.zeros((len(names), int(strata.max(initial=0)) + 1), dtype=np.int64)
        np.add.at(table, (inverse, strata), 1)
        main = table.argmax(1)
    order = rng.permutation(len(names))
    order = order[np.argsort(main[order], kind="stable")]
    return names[order], sizes[order].tolist()


def thin(strata: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """-> (N,) bool: exactly min(limit, N) samples, each stratum in proportion to within one sample."""
    n = len(strata)
    if n <= limit:
        return np.ones(n, dtype=bool)
    order = rng.permutation(n)
    order = order[np.argsort(strata[order], kind="stable")]
    owed = (
        np.arange(n + 1) * limit + n // 2
    ) // n  # samples taken before each place: integers, so the sum is exact
    chosen = np.zeros(n, dtype=bool)
    chosen[order[np.diff(owed) > 0]] = True
    return chosen


def subset(strata: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """-> (N,) bool: a share of every stratum, at least one sample of each. Nested: that of 5 % lies in that of 10 %.

    A share of 0 takes none. The same generator state gives every share's subset.
    """
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    _, first, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    rank = np.arange(len(strata)) - np.repeat(first, sizes)
    wanted = np.floor(share * sizes + 0.5).clip(min=1 if share > 0 else 0)
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[order[rank < np.repeat(wanted, sizes)]] = True
    return chosen


# ------------------------------------------------------------------------------------------------ strata


def strata_of(annotation: Annotation | None, n: int) -> np.ndarray:
    """(N,) int64: categories by name, numbers by deciles of the first column; missing ones are a stratum too."""
    if annotation is None or not n:
        return np.zeros(n, dtype=np.int64)
    if annotation.dtype.kind not in "fiub":
        return np.unique(annotation.astype(str), return_inverse=True)[1].reshape(n).astype(np.int64)
    first = annotation.reshape(n, -1)[:, 0].astype(np.float64)
    known = ~np.isnan(first)
    strata = np.full(n, 10, dtype=np.int64)
    if known.any():
        edges = np.quantile(first[known], np.arange(1, 10) / 10)
        strata[known] = np.searchsorted(edges, first[known], side="right")
    return strata


def given(annotation: Annotation) -> np.ndarray:
    """(N,) bool: samples where the annotation is not missing ("" or NaN throughout)."""
    if annotation.dtype.kind in "fiub":
        numbers = annotation.reshape(len(annotation), -1).astype(np.float64)
        return (
            np.asarray(~np.isnan(numbers).all(1))
            if numbers.shape[1]
            else np.zeros(len(numbers), dtype=bool)
        )
    return np.asarray(annotation.astype(str) != "")
