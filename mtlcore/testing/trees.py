"""Trees of tensors: a tensor, or tuples, lists and dicts of tensors, as targets and outputs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
)

T = TypeVar("T")


def tensors(tree: object) -> list[Tensor]:
    """All tensors of the tree; none if the tree is None."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def floats(tree: object) -> list[Tensor]:
    """All floating-point tensors of the tree."""
    return [leaf for leaf in tensors(tree) if leaf.is_floating_point()]


def named_floats(tree: object, root: str) -> dict[str, Tensor]:
    """The same by their place in the tree: "output['turn']" for the root "output"."""
    leaves, _ = tree_flatten_with_path(tree)
    named = {root + keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}
    return {name: leaf for name, leaf in named.items() if leaf.is_floating_point()}


def map_floats(fn: Callable[[Tensor], Tensor], tree: T) -> T:
    """Apply `fn` to each floating-point tensor and keep the other leaves."""

    def mapped(leaf: object) -> object:
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return fn(leaf)
        return leaf

    result: T = tree_map(mapped, tree)
    return result


def cut(tree: T, samples: slice) -> T:
    """Cut every tensor along its first dimension; scalars stay."""

    def cut_leaf(leaf: object) -> object:
        return leaf[samples] if isinstance(leaf, Tensor) and leaf.ndim else leaf

    result: T = tree_map(cut_leaf, tree)
    return result


def equal_samples(a: Tensor, b: Tensor) -> Tensor:
    """(B,) bool: which samples of two tensors (B, ...) of one shape are equal."""
    return (a == b).reshape(len(a), -1).all(1)


def same_values(a: Tensor, b: Tensor) -> bool:
    """True if both have the same shape, dtype and values. NaN equals NaN: unknown points are."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def equal(a: object, b: object) -> bool:
    """True if both trees have the same form and equal leaves. NaN equals NaN."""
    (left, form), (right, other_form) = tree_flatten(a), tree_flatten(b)
    return form == other_form and all(map(_equal_leaves, left, right))


def _equal_leaves(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_values(a, b)
    return a == b
