"""Tasks with faults hidden in train mode or in a global.

ALSO: (check, the class that fails this check only).
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import nn

from broken_plugins.tasks import Corners, Right, RightHead

ALSO: list[tuple[str, type]] = []
OFFSETS: dict[int, torch.Tensor] = {}


def with_head(name, doc, check, **methods):
    """Register a task whose head has these methods as one that fails `check`."""
    made = type(f"_{name}Head", (RightHead,), methods)
    body = {"__doc__": doc, "__module__": __name__, "head": lambda self, context: made(context)}
    globals()[name] = frozen(type(name, (Right,), body))
    ALSO.append((check, globals()[name]))


def _with_center(self, context):
    RightHead.__init__(self, context)
    self.center = torch.zeros(2)


def _centered(self, features):
    output = self.answer(features.pooled)
    if self.training:
        self.center = 0.9 * self.center + 0.1 * output.detach().mean(0)
    return output - self.center


def _with_cached_offset(self, context):
    RightHead.__init__(self, context)
    OFFSETS.setdefault(context.info.dim, torch.randn(2))


def _with_idle_layer(self, context):
    RightHead.__init__(self, context)
    self.idle = nn.Linear(context.info.dim, 2)


def _noisy_in_training(self, output, target):
    if self.training:
        output = output + 0.01 * torch.randn_like(output)
    return RightHead.loss(self, output, target)


with_head(
    "CentersUnsaved",
    "A running mean of its outputs is not in the state.",
    "state_round_trip_keeps_the_outputs",
    __init__=_with_center,
    forward=_centered,
)
with_head(
    "CachesItsOffset",
    "An offset is drawn once for each process and stored in a global.",
    "state_round_trip_keeps_the_outputs",
    __init__=_with_cached_offset,
    forward=lambda self, features: self.answer(features.pooled) + OFFSETS[features.pooled.shape[1]],
)
with_head(
    "NoisyInTraining",
    "In train mode its loss draws from the global generator.",
    "leaves_global_generators_alone",
    loss=_noisy_in_training,
)
with_head(
    "TimesZero",
    "A layer is part of its output, times 0.",
    "gradient_reaches_encoder_and_head",
    __init__=_with_idle_layer,
    forward=lambda self, features: self.answer(features.pooled) + 0.0 * self.idle(features.pooled),
)


@frozen
class StaysMirrored(Corners):
    """It does not mirror the points of a mirrored view back."""

    def mirror_back(self, decoded, size):
        return decoded


ALSO.append(("averaging_with_the_mirror_keeps_the_target", StaysMirrored))
