"""The targets of supervised heads, moved as the pixels of a view moved.

A label that can't follow has the share 0. In a mixed view there are the targets of both samples:
see `contracts.Mix`.

Shapes: B samples of the micro-batch, (H, W) pixels of views, K points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import AlignedTask, Batch, Mix, SupervisedTask, View
from ..contracts.task import are_points
from ..errors import MtlError
from ..geometry import Geometry

Pair = tuple[Tensor, Tensor]
"""A target (B, ...) and the weights (B,) of its samples."""


def moved_targets(
    task: SupervisedTask, label: str, batch: Batch, view: View
) -> tuple[tuple[Pair, ...], Tensor | None]:
    """Return the (target, share) pairs of a task for one view, and which labels can't be moved.

    There is one pair, or two in a mixed view. The second result is `HeadInput.unfollowed`.
    """
    assert view.geometry is not None, "supervised heads read whole images only"
    target = batch.targets[label]
    present = batch.present[label].float()
    moved, followed = move_target(label, task, target, view.geometry)
    share = present if followed is None else present * followed
    mixed = view.mixed
    if mixed is None:
        return ((moved, share),), _unfollowed(present, share, followed)

    if isinstance(task, AlignedTask) and are_points(moved):
        points, share = _mixed_points(mixed, moved, share)
        return ((points, share),), _unfollowed(present, share, share)

    other = _partner_targets(label, task, target, present, mixed, (moved, share))
    if isinstance(task, AlignedTask) and mixed.region is not None:
        pair = _pasted_maps(label, mixed.region, (moved, share), other)
        return (pair,), _unfollowed(present, pair[1], pair[1])

    # Two losses, weighted by the shares of both images: any task supports it.
    own = mixed.share
    pairs = (moved, share * own), (other[0], other[1] * (1 - own))
    return pairs, _unfollowed(present, share, followed)


def move_target(
    label: str, task: SupervisedTask, target: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor | None]:
    """Move targets. Returns (targets, share), with share = None if all labels can be moved."""
    moved = task.move(target, geometry)
    if isinstance(moved, Tensor):
        return moved, None
    moved, share = moved
    if share.shape != (len(target),):
        raise MtlError(
            f"task {label!r}: `move` returns shares of shape {tuple(share.shape)}; expected "
            f"({len(target)},), one for each sample"
        )
    return moved, share.float()


def _unfollowed(present: Tensor, share: Tensor, followed: Tensor | None) -> Tensor | None:
    """Return (B,), 1 for labeled samples whose share is 0; None if `followed` is None."""
    return None if followed is None else present * (share == 0)


def _partner_targets(
    label: str, task: SupervisedTask, target: Tensor, present: Tensor, mix: Mix, own: Pair
) -> Pair:
    """Return the (target, share) of each sample's partner, moved as the partner's pixels were.

    own: the moved targets and shares of the samples themselves.
    """
    partner = mix.partner
    if mix.before is None or mix.later is None:
        moved, share = own
        return moved[partner], share[partner]

    # The pixels moved again after mixing: the partner's pixels moved with those of the sample.
    before, followed = move_target(label, task, target, mix.before)
    share = present if followed is None else present * followed
    moved, followed = move_target(label, task, before[partner], mix.later)
    share = share[partner]
    return moved, share if followed is None else share * followed


def _pasted_maps(label: str, region: Tensor, own: Pair, other: Pair) -> Pair:
    """Return the one (target, share) of maps in a cutmix view.

    region: (B, 1, H, W) bool, True for the partner's pixels. The maps take the partner's values
    there, so both samples need a label, unless the region is empty.
    """
    target, share = own
    if target.shape[-2:] != region.shape[-2:]:
        raise MtlError(
            f"task {label!r}: `move` returns maps of {tuple(target.shape[-2:])} pixels, the view "
            f"has {tuple(region.shape[-2:])}; expected the same size"
        )
    here = region if target.ndim == 4 else region[:, 0]
    is_empty = ~region.flatten(1).any(1)
    return torch.where(here, other[0], target), share * torch.where(is_empty, 1, other[1])


def _mixed_points(mix: Mix, points: Tensor, share: Tensor) -> Pair:
    """Return the points (B, K, 2) that a mixed view still has, and their shares (B,).

    With a region, the points that it hides become NaN. A blended view has no points: no place
    between those of two images is right.
    """
    if mix.region is not None:
        return points.masked_fill(_hides(mix.region, points)[:, :, None], torch.nan), share
    return points, share * (mix.share == 1)


def _hides(region: Tensor, points: Tensor) -> Tensor:
    """Return (B, K) bool: whether a region (B, 1, H, W) covers points (B, K, 2)."""
    height, width = region.shape[-2:]
    x, y = points.floor().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # False for NaN
    position = torch.where(inside, y * width + x, 0).long()
    return inside & region.flatten(1).gather(1, position)
