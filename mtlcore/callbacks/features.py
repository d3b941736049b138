"""The network that callbacks see, and its pooled features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import RunData
from ..evaluation.samples import pooled
from ..evaluation.validation import ValidationBatches
from ..model.inference import Inference
from ..networks import single_rank

if TYPE_CHECKING:
    from ..training.state import TrainState


@single_rank()
@torch.no_grad()
def pooled_features(train_state: TrainState, data: RunData, indices: np.ndarray) -> Tensor:
    """(N, D) float32: pooled features of these samples, in eval mode, of the "validation" view."""
    device = train_state.fabric.device
    batches = ValidationBatches(train_state.experiment, data, indices, device)
    network = inference_of(train_state)
    network.eval()
    found = []
    for number in range(len(batches)):
        view = batches.view(batches.images(number))
        found.append(pooled(network, batches, view))
    if not found:
        return torch.zeros(0, network.encoder.info.dim, device=device)
    return torch.cat(found)


def inference_of(train_state: TrainState) -> Inference:
    """The network that is evaluated: the EMA copy if there is one."""
    if train_state.ema is None:
        return train_state.model.inference()
    copy = train_state.ema.copy
    assert isinstance(copy, Inference)
    return copy
