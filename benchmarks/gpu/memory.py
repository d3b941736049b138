"""(g) Peak memory of the device in a step, with and without pretexts and weightings."""

from __future__ import annotations

from typing import Any

import torch

from mtlcore import component
from mtlcore.augment.levels import Strong
from mtlcore.encoders.resnet_small import ResnetSmall

from .bench import Bench, Row
from .made import Noise, experiment, trainer

MIB = 2**20


def memory(bench: Bench) -> None:
    encoder = ResnetSmall(width=8) if bench.tiny else component("encoder", "resnet18")
    size, batch = bench.size(112, 16), bench.size(128, 8)
    data = Noise(bench.size(512, 64), size, tasks=5)

    def pretext(name: str, **fields: Any) -> dict[str, Any]:
        return {"pretexts": {name: component("pretext", name, **fields)}}

    settings: dict[str, dict[str, Any]] = {
        "supervised": {},
        "supervised_fp32": {"precision": "32"},
        "puzzling": pretext("puzzling", grid=2),
        "inpainting_l1": pretext("inpainting", grid=2, perceptual="none"),
        "inpainting_ema": pretext("inpainting", grid=2),
        "simclr": pretext("simclr"),
        "five_tasks": {"tasks": 5},
        "five_tasks_at_parameters": {
            "tasks": 5,
            "weighting": component("weighting", "cosine_gate"),
        },
        "five_tasks_at_features": {
            "tasks": 5,
            "weighting": component("weighting", "cosine_gate", at="features"),
        },
    }

    def measured(chosen: dict[str, Any]) -> Row:
        train = {"precision": "bf16-mixed", **chosen}
        exp = experiment(bench, data, encoder, size, batch, augment=Strong(), **train)
        made = trainer(exp)
        made.step()  # the optimizer creates its state
        if bench.cuda:
            bench.wait()
            torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device) if bench.cuda else 0
        for _ in range(bench.size(3, 1)):
            made.step()
        bench.needs_cuda()
        bench.wait()
        peak = torch.cuda.max_memory_allocated(bench.device)
        value = round(peak / MIB, 1)
        return {
            "value": value,
            "unit": "MiB at the peak",
            "between_steps_mib": round(before / MIB, 1),
            "over_supervised": bench.ratio_to("supervised", value),
        }

    for name in list(settings)[: bench.size(len(settings), 2)]:
        chosen = settings[name]
        bench.case(name, lambda chosen=chosen: measured(chosen))
