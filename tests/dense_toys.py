"""Toy heads of dense tasks, and tiny data sets of real masks."""

from __future__ import annotations

import torch

from mtlcore import BuildContext
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.model.inference import SharedEncoder

SIZE = (24, 32)
ENCODER = ResnetSmall(width=4)


def context_of(heads=None) -> BuildContext:
    """Return the context of a small encoder for images of 24 x 32 pixels."""
    torch.manual_seed(0)
    encoder = SharedEncoder(ENCODER, SIZE).eval()
    return BuildContext(encoder.info, encoder, heads or {})


def head_of(task, heads=None):
    """Return a new head in eval mode, and the features of two images."""
    context = context_of(heads)
    features = context.encoder(torch.rand(2, 3, *SIZE, generator=torch.manual_seed(1)))
    return task.build(context).eval(), features
