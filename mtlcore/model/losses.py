"""The loss of one label: of each sample over its views, then over the samples.

Shapes: B samples, V views of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ..contracts import Head, HeadInput, Output
from ..errors import MtlError
from ..networks import sum_over_ranks, to_fp32, world_size


def label_loss(
    label: str,
    head: Head,
    outputs: Sequence[Output],
    head_inputs: Sequence[HeadInput],
    scale: float,
    reduce: str,
    labeled: Tensor | None = None,
) -> Tensor:
    """Return the loss of one label, a scalar. Call it inside `losses_in_fp32`.

    outputs: one for each head input. scale: from the sum over samples to the loss.
    reduce: how the losses of several views of a sample are combined, "mean" or "geometric".
    labeled: (B,) bool, for a task in a step of several micro-batches. The loss of a coupled head
    then counts by the labels of its micro-batch: one without labels does not count.
    """
    losses = []
    for output, head_input in zip(outputs, head_inputs, strict=True):
        losses.append(_loss(label, head, output, head_input))
    views = torch.stack(losses)  # (V, B), or (V,) of a coupled head
    if not head.coupled and _any_mixed(head_inputs):
        # Each view has its own partners and shares. Only the plain mean is linear in the shares.
        return views.mean(0).sum() * scale

    if _any_unfollowed(head_inputs):
        loss = _mean_over_followed(views, _followed(head, head_inputs), reduce)
        return loss * _part(labeled, scale) if head.coupled else loss.sum() * scale

    if reduce == "geometric" and len(views) > 1:
        loss = views.clamp_min(1e-8).log().mean(0).exp()
    else:
        loss = views.mean(0)

    if head.coupled:
        return loss * _part(labeled, scale)  # already a mean over the samples

    # `where` and not a product: the loss of an unlabeled sample may be infinite.
    share = head_inputs[0].share
    if share is not None:
        loss = torch.where(share > 0, loss, 0)
    return loss.sum() * scale


def _loss(label: str, head: Head, output: Output, head_input: HeadInput) -> Tensor:
    """Return the loss of one head input: (B,), or () of a coupled head.

    In a mixed view there are two targets. Their shares sum to at most 1 for each sample.
    """
    output = to_fp32(output)
    targets = head_input.targets
    if head.coupled and len(targets) > 1:
        # All targets in one call: the loss divides by the sum of all shares.
        output = tree_map(lambda leaf: torch.cat([leaf] * len(targets)), output)
        targets = (tree_map(lambda *leaves: torch.cat(leaves), *targets),)
    losses = []
    for target, share in targets:
        weights = (share,) if head.coupled and share is not None else ()
        loss = head.loss(output, target, *weights)
        _check_shape(label, head, loss)
        if share is not None and not head.coupled:
            loss = torch.where(share > 0, loss, 0) * share
        losses.append(loss)
    return torch.stack(losses).sum(0)


def _part(labeled: Tensor | None, scale: float) -> Tensor | float:
    """Return the number of labels of a micro-batch, divided by the mean number of the step.

    The ranks compute a coupled loss together, so each counts the labels of all.
    """
    if labeled is None:
        return 1.0
    number = sum_over_ranks(labeled.sum(dtype=torch.double)) / world_size()
    return (number * scale).float()


def _any_mixed(head_inputs: Sequence[HeadInput]) -> bool:
    """Return whether some samples have two targets, their own and that of their partner."""
    return any(len(head_input.targets) > 1 for head_input in head_inputs)


def _any_unfollowed(head_inputs: Sequence[HeadInput]) -> bool:
    """Return whether some labels may not be movable to a view. Needs no host sync."""
    return any(head_input.unfollowed is not None for head_input in head_inputs)


def _followed(head: Head, head_inputs: Sequence[HeadInput]) -> Tensor:
    """Return which views have a label: (V, B) bool; of a coupled head (V,), of any sample."""
    shares = [head_input.share for head_input in head_inputs]
    followed = torch.stack([share for share in shares if share is not None]) > 0
    if not head.coupled:
        return followed
    return sum_over_ranks(followed.sum(1).float()) > 0


def _mean_over_followed(views: Tensor, followed: Tensor, reduce: str) -> Tensor:
    """Return (B,): the mean loss of each sample over the views to which its label was moved.

    views: (V, B) losses, 0 where the share is 0; (V,) and () of a coupled head. followed: as
    `views`, bool. A sample without any such view has the loss 0.
    """
    number = followed.sum(0).clamp_min(1)
    if reduce == "geometric" and len(views) > 1:
        logs = torch.where(followed, views.clamp_min(1e-8).log(), 0)
        mean = (logs.sum(0) / number).exp()
    else:
        mean = torch.where(followed, views, 0).sum(0) / number
    return torch.where(followed.any(0), mean, 0)


def _check_shape(label: str, head: Head, loss: Tensor) -> None:
    """Raise MtlError if the loss has the wrong number of dimensions."""
    if loss.ndim == (0 if head.coupled else 1):
        return
    expected = "()" if head.coupled else "(B,), one value for each sample"
    raise MtlError(
        f"{label!r}: the loss has the shape {tuple(loss.shape)}; expected {expected} "
        f"(set `coupled = True` on {type(head).__name__} if the loss of a sample depends on others)"
    )
