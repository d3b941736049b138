"""(d) Host syncs of a training step: none, except where a weighting solves on the CPU.

A step runs with `torch.cuda.set_sync_debug_mode("error")`, after some that draw, allocate and
create handles. If it fails, one more step with "warn" lists every line that waited.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mtlcore import component
from mtlcore.augment.levels import Strong, Weak
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.training.trainer import Trainer

from .bench import Bench, Row, described, line_of, shown
from .made import Noise, experiment, resident, trainer

NOTES = {"parameters_torchjd_upgrad": "TorchJD solves on the CPU: one sync a step is documented"}
"""Rows whose syncs are known."""

TINY = ("supervised", "parameters_cosine_gate", "two_micro_batches")


def host_syncs(bench: Bench) -> None:
    size, batch = bench.size(64, 16), bench.size(32, 8)
    data = Noise(bench.size(512, 64), size, tasks=2)

    def made(**settings: Any) -> Callable[[], Trainer]:
        augment = settings.pop("augment", Strong())
        exp = experiment(
            bench, data, ResnetSmall(width=8), size, batch, augment=augment, **settings
        )
        return lambda: trainer(exp)

    for name, settings in _settings(bench).items():
        if bench.tiny and name not in TINY:
            continue
        build, note = made(**settings), {"note": NOTES[name]} if name in NOTES else {}
        bench.case(name, lambda build=build, note=note: {**syncs_of(bench, build()), **note})
    bench.case("resident_images", lambda: syncs_of(bench, resident(made()())))


def _settings(bench: Bench) -> dict[str, dict[str, Any]]:
    puzzling = {"puzzling": component("pretext", "puzzling", grid=2)}
    two = {"tasks": 2}
    found: dict[str, dict[str, Any]] = {
        "supervised": {},
        "supervised_bf16": {"precision": "bf16-mixed"},
        "puzzling": {"pretexts": puzzling},
        "inpainting_ema": {"pretexts": {"inpainting": component("pretext", "inpainting", grid=2)}},
        "losses_uncertainty": {**two, "weighting": component("weighting", "uncertainty")},
        "features_cosine_gate": {
            **two,
            "weighting": component("weighting", "cosine_gate", at="features"),
        },
        "parameters_cosine_gate": {
            "pretexts": puzzling,
            "weighting": component("weighting", "cosine_gate"),
        },
        "parameters_budget": {"pretexts": puzzling, "weighting": component("weighting", "budget")},
        "parameters_torchjd_upgrad": {
            **two,
            "weighting": component("weighting", "torchjd:UPGrad"),
        },
        "run_ema": {"ema": 0.99},
        "two_micro_batches": {"micro_batches": 2, "pretexts": puzzling},
        "augment_weak": {"augment": Weak()},
        "augment_general": {"augment": component("augmentation", "general")},
    }
    if bench.cuda:
        found["supervised_fp16"] = {"precision": "16-mixed"}
    return found


def syncs_of(bench: Bench, made: Trainer) -> Row:
    """Return how often the host waits in a step, and where."""
    for _ in range(bench.size(4, 2)):
        made.step()
    bench.needs_cuda()
    bench.wait()
    row: Row = {"value": 0, "unit": "host syncs a step"}
    try:
        with sync_mode("error"):
            made.step()
    except Exception as error:  # noqa: BLE001 - a callback of torch may wrap it
        if "synchroniz" not in str(error):
            return described(error)
        row |= {"value": 1, "where": line_of(error)}
        lines = _lines_that_wait(made)
        row |= {"value": max(1, sum(lines.values())), "lines": dict(lines)}
    return row


def _lines_that_wait(made: Trainer) -> Counter[str]:
    """Return the lines of a step at which the host waits, and how often."""
    lines: Counter[str] = Counter()

    def seen(message: Warning | str, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            lines[shown(traceback.extract_stack())] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = seen
        try:
            with sync_mode("warn"):
                made.step()
        except Exception as error:  # noqa: BLE001 - the step that failed left something half done
            lines[f"a step after it failed: {error}"[:200]] += 0
    return lines


@contextmanager
def sync_mode(mode: str) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
