"""The fraction of a step's labels that can't be moved to a view, for the log."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..networks import sum_over_ranks


def unfollowed_of_step(
    of_micro_batches: Sequence[dict[str, Tensor]], micro_batches: int
) -> dict[str, Tensor]:
    """Return "unfollowed/<task>" -> (), the fraction of labels that can't be moved to a view.

    It is averaged over views. It is a device scalar, equal on all ranks. All ranks must call it.

    of_micro_batches: `PreparedBatch.unfollowed` of each micro-batch of this rank.
    micro_batches: number of micro-batches over all ranks.
    """
    labels = list(of_micro_batches[0])
    if not labels:
        return {}
    rows = []
    for shares in of_micro_batches:
        rows.append(torch.stack([shares[label] for label in labels]))
    total = sum_over_ranks(torch.stack(rows).sum(0)) / micro_batches
    return {f"unfollowed/{label}": share for label, share in zip(labels, total)}
