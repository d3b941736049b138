"""The devices of a run, as Lightning Fabric sets them up."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Literal

import torch
import torch.distributed as dist
from attrs import evolve
from lightning_fabric import Fabric

from ..config.experiment import Experiment
from ..errors import MtlError

CPU_PROCESSES = 8  # allowed on any machine, since a few processes on one core are a useful test


def fabric_for(experiment: Experiment) -> Fabric:
    """One device, several devices of one machine (DDP), or the processes that torchrun started.

    Raises MtlError if the hardware is missing, if the machine has fewer devices, if the precision
    does not fit the device or the weighting, or if the number of started processes differs from the
    number of devices.
    """
    train = experiment.train
    accelerator = _accelerator(experiment)
    _check_precision(experiment, accelerator)
    # torchrun announces its processes in these variables. Fabric does not read them: without them
    # it would silently run one complete job in each process.
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    devices = local or train.devices
    if not local:
        _require_devices(devices, accelerator)
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local if local else 1
    strategy = "ddp" if local or devices > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=strategy,
        precision=train.precision,
    )
    # DDP warns about channels_last weights; its own message calls it no error.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # Lightning's banners: a run says itself what it trains on, and --quiet prints nothing.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric.launch()
    stop_searching_for_gpus()
    if fabric.world_size != devices * nodes:
        raise MtlError(
            f"started {fabric.world_size} processes, expected {devices * nodes}: "
            f"{devices} devices on each of {nodes} machines"
        )
    return fabric


def stop_searching_for_gpus() -> None:
    """Where there is no GPU, let torch remember that.

    Lightning sets this variable: torch then asks NVML, so that the process can still fork before it
    uses CUDA. But each step of an optimizer asks, and each time searches the disk for the library.
    """
    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def with_micro_batches(experiment: Experiment, ranks: int) -> Experiment:
    """Set `train.micro_batches` for a run that begins on this number of ranks.

    Raises MtlError if the ranks can't share the micro-batches equally, or if a rank would have
    several of them under a weighting at the features.
    """
    train = experiment.train
    count = train.micro_batches or ranks
    if count % ranks:
        divisors = [str(n) for n in range(1, count + 1) if count % n == 0]
        raise MtlError(
            f"train.micro_batches = {count} can't be split evenly over {ranks} devices: "
            f"the number of devices (train.devices, or the processes of torchrun) must be one of "
            f"{', '.join(divisors)}"
        )
    if experiment.weighting.at == "features" and count > ranks:
        raise MtlError(
            f'weighting.at = "features" and train.micro_batches = {count} on {ranks} device(s): '
            "each accumulated micro-batch would be weighted by its own Gramian: "
            f'set weighting.at = "parameters", or train.micro_batches = {ranks}'
        )
    return evolve(experiment, train=evolve(train, micro_batches=count))


def leave_together(fabric: Fabric) -> None:
    """Close the process group at the end of a run; every rank must call it."""
    # gloo's threads would end an exiting process by SIGABRT.
    if fabric.world_size > 1 and dist.is_initialized():
        fabric.barrier()
        dist.destroy_process_group()


def _accelerator(experiment: Experiment) -> Literal["cpu", "cuda", "mps"]:
    """The hardware of a run. Raises MtlError if it is missing."""
    wanted = experiment.train.accelerator
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MtlError(
            'train.accelerator = "cuda": torch finds no GPU; '
            'set train.accelerator = "auto" or "cpu"'
        )
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise MtlError(
            'train.accelerator = "mps": torch finds no GPU of a Mac (it needs macOS 12.3 or newer, '
            'and a torch that is built with MPS); set train.accelerator = "auto" or "cpu"'
        )
    return wanted


def _require_devices(devices: int, accelerator: str) -> None:
    """Raise MtlError before more processes start than this machine can run."""
    if accelerator == "cuda":
        most, what = torch.cuda.device_count(), "GPU(s)"
    elif accelerator == "mps":
        most, what = 1, "GPU: MPS has no data parallelism"
    else:
        cores = os.cpu_count() or 1
        most, what = max(CPU_PROCESSES, cores), f"processes on its {cores} CPU core(s)"
    if devices > most:
        raise MtlError(
            f"train.devices = {devices}: this machine runs at most {most} {what}: "
            f"set train.devices = {most} or less"
        )


def _check_precision(experiment: Experiment, accelerator: str) -> None:
    if experiment.train.precision != "16-mixed":
        return
    if accelerator != "cuda":
        raise MtlError(
            'train.precision = "16-mixed" needs a GPU; set train.precision = "bf16-mixed" or "32"'
        )
    at = experiment.weighting.at
    # The GradScaler would scale the gradients that the Gramian is computed from.
    if at != "losses":
        raise MtlError(
            f'train.precision = "16-mixed" does not work with a weighting at = "{at}"; '
            'set train.precision = "bf16-mixed"'
        )
