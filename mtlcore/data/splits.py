"""Assign samples to train, validation and test, and choose the training samples that keep labels.

Everything here is a function of the seed and of one dataset's own samples. The steps, in order:

1. take the dataset's official splits, or cut 20 % of its samples as the test split;
2. cut validation out of train, unless the dataset has its own validation split;
3. reduce every split to `limit` samples;
4. keep the labels of a share of the training samples.

Pretexts, loss weightings and other datasets have no influence, so that all variants of an
experiment train on the same samples. Samples are processed in the order of their keys, so that the
order in which a folder is listed has no influence either.

Shapes: N samples of one dataset; strata (N,) int, the classes whose proportions are preserved;
groups (N,), samples of one group always end up in the same split.
"""

from __future__ import annotations

import hashlib

import numpy as np
from attrs import frozen

from ..contracts import Categories, Column
from ..contracts.texts import Texts
from ..rng import LABELS, LIMIT, TEST, VALIDATION

TEST_SHARE = 0.2  # the test split of a dataset without official splits
DECILES = 10


@frozen(eq=False)
class Assignment:
    """The result of `assign`.

    split: (N,) names; "" for samples that `limit` removes.
    labeled: (N,) bool, samples that keep their labels.
    """

    split: Categories
    labeled: np.ndarray


@frozen
class Rules:
    """The settings of one dataset.

    seed: the run's seed.
    label: the dataset's label, as in [data.<label>].
    validation: the share of train that becomes validation.
    labels: the share of training samples that keep their labels.
    limit: the largest number of samples in each split (None: no limit).
    """

    seed: int
    label: str
    validation: float = 0.1
    labels: float = 1.0
    limit: int | None = None


def assign(
    rules: Rules,
    keys: Texts,
    strata: np.ndarray,
    split: Categories | None = None,
    group: Categories | None = None,
) -> Assignment:
    """Assign every sample to a split, and decide whether it keeps its labels.

    keys: (N,) unique strings.
    split: (N,) official names, or None.
    group: (N,) names, or None if every sample is its own group.
    If the dataset has its own "validation" split, nothing is cut from train.
    """
    order = keys.argsort()
    groups = np.arange(len(keys)) if group is None else group[order].unique()[1]
    official = None if split is None else split[order]

    in_key_order = _assign_sorted(rules, strata[order], official, groups)
    original_order = np.argsort(order, kind="stable")
    return Assignment(
        in_key_order.split[original_order],
        in_key_order.labeled[original_order],
    )


def _assign_sorted(
    rules: Rules,
    strata: np.ndarray,
    split: Categories | None,
    groups: np.ndarray,
) -> Assignment:
    """Do the work of `assign` on samples that are sorted by key."""
    official = Categories.filled(len(strata), "train") if split is None else split
    # The official names come first, so that their codes do not change.
    names = list(dict.fromkeys([*official.names.tolist(), "train", "validation", "test", ""]))
    code = {name: number for number, name in enumerate(names)}
    codes = official.codes.astype(np.int32)  # a copy

    if split is None:
        rng = generator(rules.seed, TEST, rules.label)
        codes[cut(strata, groups, TEST_SHARE, rng)] = code["test"]

    if not (codes == code["validation"]).any():
        train = np.flatnonzero(codes == code["train"])
        rng = generator(rules.seed, VALIDATION, rules.label)
        chosen = cut(strata[train], groups[train], rules.validation, rng)
        codes[train[chosen]] = code["validation"]

    if rules.limit is not None:
        for name in sorted(set(names) - {""}):
            indices = np.flatnonzero(codes == code[name])
            rng = generator(rules.seed, LIMIT, rules.label, name)
            remains = thin(strata[indices], rules.limit, rng)
            codes[indices[~remains]] = code[""]

    labeled = np.ones(len(codes), dtype=bool)
    train = np.flatnonzero(codes == code["train"])
    rng = generator(rules.seed, LABELS, rules.label)
    labeled[train] = subset(strata[train], rules.labels, rng)
    return Assignment(Categories(codes, names), labeled)


# ------------------------------------------------------------ draws


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator that is seeded by the run's seed and the purpose alone."""
    digest = hashlib.blake2b(repr((seed, purpose)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def cut(
    strata: np.ndarray,
    groups: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose about `share` of the samples as whole groups, in proportion in every stratum.

    Returns (N,) bool. If every sample is its own group, each stratum contributes its share to
    within one sample. A group belongs to the stratum of most of its samples. If there are at least
    two groups and the share is neither 0 nor 1, at least one group is chosen and one is not.
    """
    order, sizes = _shuffled_groups(strata, groups, rng)
    if share <= 0 or not len(order):
        return np.zeros(len(groups), dtype=bool)

    chosen = np.zeros(len(order), dtype=bool)
    seen = taken = 0
    for position, size in enumerate(sizes):
        seen += size
        # Take a group if that brings the samples taken closer to the share of the samples seen.
        if share * seen - taken >= size / 2 - 1e-9:
            chosen[position] = True
            taken += size

    if len(order) > 1 and share < 1:
        if not chosen.any():
            chosen[np.argmin(sizes)] = True
        if chosen.all():
            chosen[np.argmin(sizes)] = False
    return np.isin(groups, order[chosen])


def _shuffled_groups(
    strata: np.ndarray,
    groups: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[int]]:
    """Return the groups in random order, stratum by stratum, and their numbers of samples."""
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) == len(groups):
        stratum = strata[np.argsort(groups, kind="stable")]
    else:
        # table[g, s]: how many samples of group g are in stratum s
        table = np.zeros((len(names), int(strata.max(initial=0)) + 1), dtype=np.int64)
        np.add.at(table, (np.searchsorted(names, groups), strata), 1)
        stratum = table.argmax(1)
    order = rng.permutation(len(names))
    order = order[np.argsort(stratum[order], kind="stable")]
    return names[order], sizes[order].tolist()


def thin(
    strata: np.ndarray,
    limit: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose exactly min(limit, N) samples, each stratum in proportion to within one sample.

    Returns (N,) bool.
    """
    n = len(strata)
    if n <= limit:
        return np.ones(n, dtype=bool)
    order = rng.permutation(n)
    order = order[np.argsort(strata[order], kind="stable")]
    # How many samples are chosen before each position. Integer arithmetic makes the sum exact.
    chosen_before = (np.arange(n + 1) * limit + n // 2) // n
    chosen = np.zeros(n, dtype=bool)
    chosen[order[np.diff(chosen_before) > 0]] = True
    return chosen


def subset(
    strata: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose a share of every stratum, but at least one sample of each; a share of 0 chooses none.

    Returns (N,) bool. With one generator state the subsets are nested: the samples of 5 % are among
    those of 10 %.
    """
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    _, first, sizes = np.unique(strata[order], return_index=True, return_counts=True)

    rank = np.arange(len(strata)) - np.repeat(first, sizes)  # position within the own stratum
    smallest = 1 if share > 0 else 0
    targets = np.floor(share * sizes + 0.5).clip(min=smallest)
    chosen = np.zeros(len(strata), dtype=bool)
    chosen[order[rank < np.repeat(targets, sizes)]] = True
    return chosen


# ------------------------------------------------------------ strata


def strata_of(annotation: Column | None, n: int) -> np.ndarray:
    """Return the stratum of each of n samples, (n,) int64.

    Categories are strata by name. Numbers are strata by deciles of their first column. Samples
    without a value form a stratum of their own.
    """
    if annotation is None or not n:
        return np.zeros(n, dtype=np.int64)
    if isinstance(annotation, Categories):
        return annotation.unique()[1]

    first = annotation.reshape(n, -1)[:, 0].astype(np.float64)
    known = ~np.isnan(first)
    strata = np.full(n, DECILES, dtype=np.int64)
    if known.any():
        edges = np.quantile(first[known], np.arange(1, DECILES) / DECILES)
        strata[known] = np.searchsorted(edges, first[known], side="right")
    return strata


def is_labeled(annotation: Column) -> np.ndarray:
    """Return which samples have a value: (N,) bool.

    A string is missing if it is "". Numbers are missing if all of a sample's numbers are NaN.
    """
    if isinstance(annotation, Categories):
        return ~annotation.isin("")
    numbers = annotation.reshape(len(annotation), -1).astype(np.float64)
    if not numbers.shape[1]:
        return np.zeros(len(numbers), dtype=bool)
    return np.asarray(~np.isnan(numbers).all(1))
