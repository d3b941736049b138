"""(f) What only a GPU can show: checks of the kit, two streams, pinned copies.

- Every pretext: the kit's `never_waits_for_the_gpu`. Every augmentation: the same for `view` and
  `finish`, and finite images in [0, 1] on the device.
- Batches that a thread read ahead and copied on a side stream equal those that were read directly,
  while kernels of the training stream keep the device busy.
- Copies from pinned memory, over those from pageable memory.
"""

from __future__ import annotations

import warnings

import torch
from kornia_lists import LISTS
from torch import Tensor

from mtlcore import Rng, component
from mtlcore.augment.levels import Strong
from mtlcore.authoring.describe import needed
from mtlcore.contracts import Batch
from mtlcore.data.loader import DirectLoader, to_device
from mtlcore.data.prefetch import PrefetchLoader
from mtlcore.data.sampler import Sampler
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.registry.catalog import Catalog, catalog
from mtlcore.testing import conformance
from mtlcore.testing.pretext.speed import never_waits_for_the_gpu
from mtlcore.testing.requirements import Skip

from .bench import Bench, NotHere, Row
from .made import Noise, experiment, packed, trainer
from .syncs import sync_mode

STAYS = "stays_on_device"  # the capability that a pretext may lack, with its reason


def checks(bench: Bench) -> None:
    warnings.filterwarnings("ignore", module="kornia")
    # Streams and copies first: they need seconds, and nobody else measures them.
    bench.case("prefetched_batches", lambda: prefetched(bench))
    bench.case("pinned_copies", lambda: pinned(bench))
    found = catalog()
    for kind, measure in (("pretext", _pretext), ("augmentation", _augmentation)):
        names = sorted(name for of, name in found.classes if of == kind)
        for name in names[: bench.size(len(names), 2)]:
            bench.case(
                f"{kind} {name}",
                lambda name=name, measure=measure: measure(bench, found, name),
            )


def _pretext(_: Bench, found: Catalog, name: str) -> Row:
    _require_defaults(found, "pretext", name)
    suite = conformance("pretext", name, known=found, examples=1)
    if STAYS in suite.lacks:
        raise NotHere(f"lacks {STAYS}: {suite.lacks[STAYS]}")
    try:
        never_waits_for_the_gpu(suite.subject)
    except Skip as reason:
        raise NotHere(str(reason)) from None
    return _PASSED


def _augmentation(bench: Bench, found: Catalog, name: str) -> Row:
    if name == "kornia":
        augmentation = component("augmentation", name, ops=LISTS["docs"])
    else:
        _require_defaults(found, "augmentation", name)
        augmentation = component("augmentation", name)
    images = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8).to(bench.device)

    def once(seed: int) -> Tensor:
        rng = Rng(torch.Generator().manual_seed(seed), bench.device)
        return augmentation.finish(augmentation.view(images, (32, 32), rng).images, rng)

    for seed in range(bench.size(8, 2)):
        finished = once(seed)
        in_range = (
            finished.isfinite().all() & (finished >= -1e-5).all() & (finished <= 1.00001).all()
        )
        if not bool(in_range):
            raise AssertionError(f"draw {seed}: the images are not in [0, 1]")
    if not torch.equal(once(0), once(0)):
        raise AssertionError("the same draws give another view on the device")
    if bench.cuda:
        for seed in range(8):
            torch.cuda.synchronize()
            with sync_mode("error"):
                once(seed)
    return _PASSED


_PASSED: Row = {"value": True, "unit": "passed"}


def _require_defaults(found: Catalog, kind: str, name: str) -> None:
    missing = needed(found.find(kind, name))
    if missing:
        raise NotHere(f"needs values: {', '.join(missing)}")


# -------------------------------------------------------------------------------- streams, copies


def prefetched(bench: Bench) -> Row:
    """Compare batches of the loader that reads ahead with those that are read directly."""
    size, batch, steps = bench.size(64, 16), bench.size(128, 8), bench.size(60, 4)
    pack = packed(bench, "pack", Noise(bench.size(1024, 64), size))
    exp = experiment(bench, pack, ResnetSmall(width=8), size, batch, augment=Strong())
    parts = trainer(exp).parts
    ahead = parts.loader
    assert isinstance(ahead, PrefetchLoader)
    direct = DirectLoader(
        parts.data, Sampler(parts.data, parts.train_state.experiment), bench.device
    )
    other = bench.size(2048, 8)
    busy = torch.rand(other, other, device=bench.device)
    different = torch.zeros((), dtype=torch.int64, device=bench.device)
    for step in range(steps):
        # Kernels of the training stream: the copies of the next batches run beside them.
        busy = (busy @ busy).clamp(0, 1)
        different += _differences(ahead.batch(step, 0), direct.batch(step, 0))
        busy = (busy @ busy).clamp(0, 1)
    count = int(different)
    if count:
        raise AssertionError(f"{count} numbers of {steps} batches differ")
    return {"value": True, "unit": "equal", "steps": steps}


def _differences(one: Batch, other: Batch) -> Tensor:
    """Return how many numbers of two batches differ, without a host sync."""
    pairs = [(one.images, other.images)]
    pairs += [(one.targets[label], other.targets[label]) for label in one.targets]
    pairs += [(one.present[label], other.present[label]) for label in one.present]
    return torch.stack([(a != b).sum() for a, b in pairs]).sum()


def pinned(bench: Bench) -> Row:
    """Return GB/s of a copy from pinned memory, and how that compares with pageable memory.

    `to_device` of a whole batch must not wait for the device.
    """
    bench.needs_cuda()
    images = torch.randint(0, 256, (256, 3, 256, 256), dtype=torch.uint8)
    in_pinned = images.pin_memory()
    gb = images.numel() / 1e9
    fast = gb / bench.seconds_of(lambda: in_pinned.to(bench.device, non_blocking=True), 1.0)
    slow = gb / bench.seconds_of(lambda: images.to(bench.device), 1.0)
    whole = gb / bench.seconds_of(
        lambda: images.pin_memory().to(bench.device, non_blocking=True), 1.0
    )
    batch = _batch_of(images)
    to_device(batch, bench.device)
    with sync_mode("error"):
        to_device(batch, bench.device)
    return {
        "value": round(fast, 2),
        "unit": "GB/s from pinned memory",
        "pageable_gb_s": round(slow, 2),
        "pinned_first_gb_s": round(whole, 2),
    }


def _batch_of(images: Tensor) -> Batch:
    from mtlcore.contracts import StepCounts

    n = len(images)
    classes, present = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.bool)
    counts = StepCounts({"task0": n}, n, 0)
    return Batch(
        images=images,
        targets={"task0": classes},
        present={"task0": present},
        counts=counts,
        labeled_samples=n,
    )
