"""The precision of evaluation: that of the run if the device supports it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["32", "bf16-mixed", "16-mixed"]
"""A value of `train.precision`."""

_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which training runs its forwards under this precision.

    It is the same as in Lightning Fabric, which `mtl eval` does not use.
    """
    if precision not in _DTYPES:
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def lacking(precision: Precision, device: torch.device) -> str:
    """Return why the device can't evaluate in this precision; "" if it can."""
    if precision == "16-mixed" and device.type != "cuda":
        return f'it needs a CUDA device, got "{device}"'
    if precision == "bf16-mixed" and device.type == "cuda":
        with torch.cuda.device(device):
            if not torch.cuda.is_bf16_supported():
                return f'"{device}" does not support bfloat16'
    return ""
