"""Operations that mix each sample with another one: kornia draws, `View.mix` mixes.

kornia's own `apply_transform` waits for the GPU (it indexes by a mask), and no label would follow.
The tests compare the images with kornia's, for the same parameters.

Shapes: B samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...contracts import View
from ...rng import to_device
from .drawn import Drawn


def mixed(view: View, drawn: Drawn) -> View:
    """Return the view after one operation that mixes samples."""
    params, device = drawn.params, view.images.device
    chosen = params["batch_prob"] > 0.5  # (B,)
    if "mixup_pairs" in params:
        share = 1 - params["mixup_lambdas"] * chosen
        return view.mix(to_device(params["mixup_pairs"], device), share=to_device(share, device))

    (partner,), (box,) = params["mix_pairs"], params["crop_src"]  # of the one partner
    corners = torch.where(chosen[:, None], _corners(box), 0)
    region = _boxes(to_device(corners, device), view.images)
    return view.mix(to_device(partner, device), region=region)


def _corners(box: Tensor) -> Tensor:
    """Convert kornia's four vertices (B, 4, 2), inclusive, to (B, 4): left, top, right, bottom.

    right and bottom are exclusive.
    """
    return torch.cat([box[:, 0], box[:, 2] + 1], 1)


def _boxes(corners: Tensor, images: Tensor) -> Tensor:
    """Return (B, 1, H, W) bool, True inside of each box. corners: (B, 4) pixels."""
    left, top, right, bottom = corners[:, :, None].unbind(1)  # each (B, 1)
    x = torch.arange(images.shape[-1], device=images.device)
    y = torch.arange(images.shape[-2], device=images.device)
    columns = (x >= left) & (x < right)
    rows = (y >= top) & (y < bottom)
    return rows[:, None, :, None] & columns[:, None, None, :]


def refuse_wrong_mix(names: list[str], mixes: list[bool]) -> None:
    """Raise ValueError unless at most one operation mixes, and no other follows it.

    names, mixes: of the operations that run before the pretexts, in order.
    """
    mixing = [name for name, mix in zip(names, mixes) if mix]
    if len(mixing) > 1:
        raise ValueError(f"ops mix samples {len(mixing)} times ({', '.join(mixing)}): keep one")
    if mixing and not mixes[-1]:
        raise ValueError(
            f"{mixing[0]} mixes samples, and {names[-1]} follows it: move {mixing[0]} to the end "
            "(operations with after_pretext = true may follow)"
        )
