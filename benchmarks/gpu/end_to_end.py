"""(a) ResNet-50 from a raw pack: does a step wait for its images?

224 px, bf16-mixed, 256 images a step, augmentation `strong`. End to end: records are read from the
pack, copied to the device beside the kernels, augmented and trained on. The rival is the same step
on one batch that stays on the device.
"""

from __future__ import annotations

from itertools import count

from mtlcore import component
from mtlcore.augment.levels import Strong
from mtlcore.encoders.resnet_small import ResnetSmall

from .bench import Bench, Row
from .made import Noise, experiment, fixed, packed, trainer

GOAL = 0.95


def end_to_end(bench: Bench) -> None:
    batch, size = bench.size(256, 8), bench.size(224, 32)
    cached, n = bench.size(256, 40), bench.size(2048, 64)
    encoder = ResnetSmall(width=8) if bench.tiny else component("encoder", "resnet50")
    pack = packed(bench, "pack", Noise(n, cached))
    exp = experiment(
        bench,
        pack,
        encoder,
        size,
        batch,
        augment=Strong(),
        cache_size=cached,
        precision="bf16-mixed",
    )

    def on_the_device() -> Row:
        return {**bench.images_s(fixed(trainer(exp)).step, batch, 8.0)}

    def from_the_pack() -> Row:
        row = bench.images_s(trainer(exp).step, batch, 15.0)
        return {**row, "over_resident": bench.ratio_to("resident", row["value"]), "goal": GOAL}

    def loader_alone() -> Row:
        loader, steps = trainer(exp).parts.loader, count()
        return bench.images_s(lambda: loader.batch(next(steps), 0), batch, 5.0)

    bench.case("resident", on_the_device)
    bench.case("raw_pack", from_the_pack)
    bench.case("raw_pack_loader_alone", loader_alone)
