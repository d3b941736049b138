"""Where a run computes: Lightning Fabric, set up so that no launcher is misread."""

from __future__ import annotations

import os
import warnings

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from ..config.experiment import Experiment
from ..errors import MtlError


def fabric_for(experiment: Experiment) -> Fabric:
    """One device, several devices of one machine (DDP), or the processes that torchrun started.

    Under torchrun the number of processes is read from its variables: without it Fabric would run one job a process, in silence.
    Raises MtlError where the precision does not fit the device or the weighting.
    """
    train = experiment.train
    cuda = train.accelerator == "cuda" or (
        train.accelerator == "auto" and torch.cuda.is_available()
    )
    if train.accelerator == "cuda" and not torch.cuda.is_available():
        raise MtlError('train.accelerator = "cuda", and torch sees no GPU: set "auto" or "cpu"')
    if train.precision == "16-mixed" and not cuda:
        raise MtlError('train.precision = "16-mixed" needs a GPU: set "bf16-mixed" or "32"')
    if train.precision == "16-mixed" and (at := experiment.weighting.at) != "losses":
        raise MtlError(
            f'train.precision = "16-mixed" and a weighting at = "{at}" exclude each other: set "bf16-mixed"'
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    devices = local or train.devices
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local if local else 1
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if local or devices > 1 else "auto",
        precision=train.precision,
    )
    warnings.filterwarnings(
        "ignore", "Grad strides do not match bucket view strides"
    )  # channels_last: no error, says torch
    fabric.launch()
    if fabric.world_size != devices * nodes:
        raise MtlError(
            f"started {fabric.world_size} processes for {devices} devices on {nodes} machines"
        )
    return fabric


def leave_together(fabric: Fabric) -> None:
    """Close the process group where a run ends on all ranks: gloo's threads would end an exiting process by SIGABRT."""
    if fabric.world_size > 1 and dist.is_initialized():
        fabric.barrier()
        dist.destroy_process_group()
