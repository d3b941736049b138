"""Estimate the memory of a run before it is allocated, and refuse a run that can't fit.

The estimate is a lower bound: the image cache, the images of a micro-batch on their way through the
encoder (those of the clean views), and the weights with gradients and optimizer states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import asdict, evolve, frozen
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..callbacks.untouched import restored_generators
from ..config.experiment import Experiment
from ..data.cache import ImageCache, MemoryImageCache, local_processes, usable_memory
from ..data.packs.cache import JoinedImageCache
from ..encoders.weights import weights_from_checkpoint
from ..errors import MtlError
from ..model.hybrid import HybridModel
from ..model.inference import SharedEncoder
from .trial_of_optimizer import states_per_parameter

GIB = 2**30
WARN_FROM = 0.8  # of the available memory
PROBED = 2  # samples of the forward that measures activations: BatchNorm needs two
# Measuring activations takes a tenth of a second. It is done only if KEPT_PER_VALUE values for each
# value of the images would exceed the share MATTERS_FROM of the memory. resnet_small keeps 100.
KEPT_PER_VALUE, MATTERS_FROM = 500, 0.05

_SMALLER = {
    "images": "a smaller input.cache_size, or a limit in [data.<label>]",
    "batch": "a smaller input.batch_size or input.size, or a larger train.micro_batches",
    "network": "a smaller encoder, or smaller heads",
}
_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)


@frozen
class NeededMemory:
    """Bytes that one process of a run needs at least.

    images: the image cache. batch: images and activations of a micro-batch. network: weights,
    gradients, optimizer states and the EMA copy.
    """

    images: int = 0
    batch: int = 0
    network: int = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return self.images + self.batch + self.network

    def check(self, available: int, where: str) -> str | None:
        """Return a warning if this is over 80 % of `available` bytes, and None if it is less.

        where: the owner of the memory, for the message. Raises MtlError if there is not enough.
        """
        if self.total <= WARN_FROM * available:
            return None
        sizes: dict[str, int] = asdict(self)
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in sizes.items() if size)
        largest = max(sizes, key=lambda name: sizes[name])
        text = (
            f"this run needs at least {self.total / GIB:.1f} GiB of memory ({parts}); "
            f"{where} has {available / GIB:.1f} GiB: set {_SMALLER[largest]}"
        )
        if self.total > available:
            raise MtlError(text)
        return text


@frozen
class AvailableMemory:
    """Bytes that one process may take. device: of its GPU, 0 if it computes on the CPU."""

    host: int
    device: int = 0

    @classmethod
    def of(cls, device: torch.device) -> AvailableMemory:
        """Return the memory of this process and of its device."""
        host = usable_memory() // local_processes()
        if device.type != "cuda":
            return cls(host)
        return cls(host, torch.cuda.get_device_properties(device).total_memory)

    @property
    def for_network(self) -> int:
        """Bytes of the device that holds the network."""
        return self.device or self.host

    def check(self, needed: NeededMemory) -> list[str]:
        """Return the warnings. Raises MtlError if there is not enough memory."""
        if not self.device:
            found = [needed.check(self.host, "this process")]
        else:
            on_device = NeededMemory(batch=needed.batch, network=needed.network)
            images = NeededMemory(needed.images)
            found = [
                images.check(self.host, "this process"),
                on_device.check(self.device, "this GPU"),
            ]
        return [line for line in found if line]


@frozen
class MemoryCheck:
    """The memory of a run, as far as it is known. Each part raises MtlError if it does not fit."""

    available: AvailableMemory
    needed: NeededMemory

    @classmethod
    def before_network(cls, experiment: Experiment, fabric: Fabric) -> MemoryCheck:
        """Check the first batch."""
        available = AvailableMemory.of(fabric.device)
        needed = memory_of_batches(experiment, fabric.world_size, available)
        available.check(needed)
        return cls(available, needed)

    def building(self) -> RefuseHugeNetworks:
        """Return a context in which a network that is too large is refused before it is built."""
        return RefuseHugeNetworks(self.available.for_network)

    def with_network(self, model: HybridModel, experiment: Experiment) -> MemoryCheck:
        """Check the batch and the network together."""
        needed = evolve(self.needed, network=memory_of_network(model, experiment))
        self.available.check(needed)
        return evolve(self, needed=needed)

    def with_images(self, images: ImageCache) -> list[str]:
        """Check all parts together, with the image cache. -> the warnings."""
        return self.available.check(evolve(self.needed, images=memory_of_images(images)))


def memory_of_batches(
    experiment: Experiment, ranks: int, available: AvailableMemory
) -> NeededMemory:
    """Estimate the memory of a micro-batch, before the network is built."""
    settings = experiment.input
    height, width = settings.size
    samples = settings.batch_size + (settings.unlabeled_batch or 0)
    samples = math.ceil(samples / (experiment.train.micro_batches or ranks))
    samples *= experiment.views.clean
    each = 4 * 3 * height * width  # float32 views
    if KEPT_PER_VALUE * samples * each > MATTERS_FROM * available.for_network:
        each += _activation_bytes(experiment)
    return NeededMemory(batch=samples * each)


def memory_of_images(images: ImageCache) -> int:
    """Return the bytes of the images that are held in memory."""
    if isinstance(images, JoinedImageCache):
        return sum(memory_of_images(part) for part in images.parts)
    return images.pixels.nbytes if isinstance(images, MemoryImageCache) else 0


def memory_of_network(model: HybridModel, experiment: Experiment) -> int:
    """Return the bytes of weights, gradients, optimizer states, and the EMA copy."""
    states = states_per_parameter(experiment.optimizer)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    ema = _bytes(model.inference()) if experiment.train.ema else 0
    return _bytes(model) + (1 + states) * trained + ema


class RefuseHugeNetworks(TorchFunctionMode):
    """Raise MtlError before the tensors that are created inside take more than this memory.

    available: bytes. Only creation is counted, as in the constructors of layers.
    """

    def __init__(self, available: int) -> None:
        super().__init__()
        self.available = available
        self.created = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and "out" not in kwargs:
            shaped = {key: kwargs[key] for key in kwargs if key not in ("generator", "pin_memory")}
            self.created += func(*args, **{**shaped, "device": "meta"}).nbytes
            if self.created > self.available:
                NeededMemory(network=self.created).check(self.available, "this process")
        return func(*args, **kwargs)


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _activation_bytes(experiment: Experiment) -> int:
    """Return the bytes that the encoder keeps of each image for its backward.

    The encoder is built on torch's "meta" device, which computes shapes and allocates nothing. 0 if
    that is impossible.
    """
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    def unused(tensor: Tensor) -> Tensor:
        return tensor

    size = experiment.input.size
    eager = torch.compiler.set_stance("force_eager")
    try:
        generators = restored_generators(torch.device("cpu"))
        with generators, weights_from_checkpoint(), eager, torch.device("meta"):
            encoder = SharedEncoder(experiment.encoder, size).train()
            hooks = torch.autograd.graph.saved_tensors_hooks(count, unused)
            with torch.enable_grad(), hooks:
                features = encoder(torch.zeros(PROBED, 3, *size))
        del features
    except Exception:  # noqa: BLE001 - a plugin's network may read values; it is built next
        return 0
    for parameter in encoder.parameters():
        saved.pop(parameter.untyped_storage()._cdata, None)
    total = sum(saved.values()) // PROBED
    return total if experiment.train.precision == "32" else total // 2
