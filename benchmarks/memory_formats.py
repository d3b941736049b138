"""The suite `memory-format`: is each encoder's fixed memory format the faster one on a CPU?

An encoder converts its images to one memory format, contiguous or channels_last. The choice is
fixed in the code, because a choice by a clock inside of a run would change its rounding from start
to start. This suite measures both formats, so the fixed choices come from a measurement.
"""

from __future__ import annotations

import sys

import torch
from timing import Row, Variant, compare, cpu_times
from torch import nn

from mtlcore.contracts import Encoder
from mtlcore.encoders import Timm
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.encoders.vision import NETS

BATCH, SIZE = 8, 64
WIDE_MARGIN = 1.15
"""The gate: a choice may be this much slower than the other one, since machines differ."""

TIMM = (
    "resnet18",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_100",
    "convnext_atto",
)
OTHER = {
    torch.contiguous_format: torch.channels_last,
    torch.channels_last: torch.contiguous_format,
}
WORDS = {torch.contiguous_format: "contiguous", torch.channels_last: "channels_last"}


def memory_format(quick: bool) -> list[Row]:
    """Compare a forward and backward in the encoder's memory format with the other format."""
    encoders: dict[str, Encoder] = {"resnet_small": ResnetSmall()}
    encoders |= {str(net.name): net() for net in NETS}
    encoders |= {f"timm:{name}": Timm(name) for name in TIMM}
    rounds = 2 if quick else 4
    rows: list[Row] = []
    for name, encoder in encoders.items():
        row = _row(name, encoder, rounds)
        if row is not None:
            rows.append(row)
            print(f"{row.name}: {row.ratio:.2f}", file=sys.stderr, flush=True)
    return rows


def _row(name: str, encoder: Encoder, rounds: int) -> Row | None:
    """Compare the two formats of one encoder. None for a network without a choice, a ViT."""
    torch.manual_seed(0)
    net = encoder.build((SIZE, SIZE)).train()
    chosen = getattr(net, "memory_format", None)
    if chosen is None:
        return None
    images = torch.randn(BATCH, 3, SIZE, SIZE)

    def step(layout: torch.memory_format) -> Variant:
        return lambda: _forward_and_backward(net, layout, images)

    times = cpu_times({"chosen": step(chosen), "other": step(OTHER[chosen])}, rounds, warm=1)
    label, baseline = f"{name}, {WORDS[chosen]}", WORDS[OTHER[chosen]]
    return compare(label, times["chosen"], baseline, times["other"], gate=WIDE_MARGIN)


def _forward_and_backward(
    net: nn.Module, layout: torch.memory_format, images: torch.Tensor
) -> None:
    net.memory_format = layout  # type: ignore[assignment]  # read by its forward
    net(images).pooled.square().mean().backward()
    net.zero_grad(set_to_none=True)
