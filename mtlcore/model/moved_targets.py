"""The targets of supervised heads, moved as the pixels of a view moved.

A label that can't follow has the share 0. In a mixed view there are the targets of both samples.

Shapes: B samples of the micro-batch, (H, W) pixels of views, K points.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contracts import AlignedTask, Batch, Mix, SupervisedTask, View
from ..contracts.components import are_points
from ..errors import MtlError
from ..geometry import Geometry

Pair = tuple[Tensor, Tensor]
"""A target (B, ...) and the weights (B,) of its samples."""


def moved_targets(
    task: SupervisedTask, label: str, batch: Batch, view: View
) -> tuple[tuple[Pair, ...], Tensor | None]:
    """Return the (target, share) pairs of a task for one view, and which labels can't be moved.

    There is one pair, or two with mixup. The second result is `HeadInput.unfollowed`.
    """
    assert view.geometry is not None, "supervised heads read whole images only"
    target = batch.targets[label]
    present = batch.present[label].float()
    moved, followed = move_target(label, task, target, view.geometry)
    share = present if followed is None else present * followed
    if view.mix is None:
        return ((moved, share),), _unfollowed(present, share, followed)

    other = _partner_targets(label, task, target, present, view.mix, (moved, share))
    region = view.mix.region
    if region is not None and isinstance(task, AlignedTask):
        pair = _merged(label, region, (moved, share), other)
        return (pair,), _unfollowed(present, pair[1], pair[1])

    # Mixup as two losses, weighted by the shares of both images: any task supports it.
    own = view.mix.share
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


def _merged(label: str, region: Tensor, own: Pair, other: Pair) -> Pair:
    """Return the one (target, share) of an aligned task in a cutmix view.

    region: (B, 1, H, W) bool, True for the partner's pixels. Maps take the partner's values there,
    so both samples need a label. Points of the sample become NaN where the partner covers them.
    """
    target, share = own
    if are_points(target):
        return target.masked_fill(_hides(region, target)[:, :, None], torch.nan), share

    here = region if target.ndim == 4 else region[:, 0]
    if target.shape[-2:] != region.shape[-2:]:
        raise MtlError(
            f"task {label!r}: `move` returns maps of {tuple(target.shape[-2:])} pixels, the view "
            f"has {tuple(region.shape[-2:])}; expected the same size"
        )
    return torch.where(here, other[0], target), share * other[1]


def _hides(region: Tensor, points: Tensor) -> Tensor:
    """Return (B, K) bool: whether a region (B, 1, H, W) covers points (B, K, 2)."""
    height, width = region.shape[-2:]
    x, y = points.floor().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # False for NaN
    position = torch.where(inside, y * width + x, 0).long()
    return inside & region.flatten(1).gather(1, position)
