"""The predictions of a network for one batch of views, for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..contracts import AlignedTask, Output, SupervisedTask
from ..errors import MtlError
from ..model.inference import Inference
from ..networks import to_fp32
from ..registry.records import one_line
from .precision import Precision, autocast


@torch.no_grad()
def decoded_predictions(
    net: Inference,
    tasks: Mapping[str, SupervisedTask],
    images: Tensor,
    precision: Precision,
    mirror: bool = False,
) -> dict[str, Tensor]:
    """Return task label -> predictions (B, ...), as `decode` returns them.

    images: (B, 3, H, W) in [0, 1], views of `Preprocess`.
    precision: of the forward pass.
    mirror: average each prediction with that of the mirrored image.
    """
    outputs = _outputs(net, images, precision)
    mirrored = _outputs(net, images.flip(-1), precision) if mirror else None
    decoded: dict[str, Tensor] = {}
    for label, task in tasks.items():
        with failures_named(f"task.{label}"):
            decoded[label] = task.decode(outputs[label])
            if mirrored is not None:
                other = task.decode(mirrored[label])
                if isinstance(task, AlignedTask):
                    other = task.mirror_back(other, (images.shape[-2], images.shape[-1]))
                decoded[label] = task.average(decoded[label], other)
    return decoded


def _outputs(net: Inference, images: Tensor, precision: Precision) -> dict[str, Output]:
    """Task label -> output of its head, in fp32, since `decode` computes in fp32."""
    with autocast(precision, images.device):
        outputs = net(images)
    return {label: to_fp32(output) for label, output in outputs.items()}


@contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Convert any exception of a component into an MtlError. what: names it, "task.<label>"."""
    try:
        yield
    except MtlError:
        raise
    except Exception as error:
        raise MtlError(f"{what} failed in an evaluation: {one_line(error)}") from error
