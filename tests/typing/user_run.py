"""A user's script: it trains and reads a run. tests/test_typing.py checks it with strict mypy."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mtlcore
from mtlcore import Evaluation, Experiment, FeatureTable, Run, component


def main() -> None:
    experiment = Experiment(
        encoder=component("encoder", "resnet_small", width=4),
        tasks={"fer": component("task", "fer")},
        data={"faces": component("dataset", "synthfaces", train=24, test=8)},
        input=mtlcore.Input(size=16, batch_size=8, cache_size=16),
        train=mtlcore.Train(steps=2, log_every=1),
    )
    run: Run = mtlcore.train(experiment, "run", overrides={"seed": 1}, progress=False)
    file = Path("experiment.toml")
    file.write_text(experiment.to_toml(), encoding="utf-8")
    stopper = component("callback", "early_stopping")
    other = mtlcore.train(
        file, out=Path("other"), callbacks={"stopper": stopper}, plugins=[], progress=False
    )
    try:
        mtlcore.train(None, "run", resume=True, progress=False)
    except (mtlcore.Interrupted, mtlcore.Diverged, mtlcore.MtlError) as error:
        raise SystemExit(1) from error
    worker = threading.Thread(target=mtlcore.load_run, args=(other.path,))
    worker.start()
    worker.join()

    run = mtlcore.load_run(run.path)
    size: tuple[int, int] = run.experiment.input.size
    rows: list[dict[str, Any]] = run.metrics()
    steps: int = run.summary["steps"]
    assert (size, len(rows), steps) == ((16, 16), 3, 2)

    found: Evaluation = run.evaluate(split="test", per_sample=True, checkpoint="best", device="cpu")
    accuracy: float = found.metrics["fer/accuracy"]
    count: float = found.tables["fer/confusion"]["fear"]["anger"]
    prediction: object = found.samples[0]["fer/prediction"]
    assert 0 <= accuracy <= 1 <= found.n["fer"], (count, prediction)

    model = run.model()
    module: torch.nn.Module = model
    outputs: dict[str, torch.Tensor] = model(torch.rand(2, 3, 16, 16))
    features: mtlcore.Features = model.encoder(torch.rand(2, 3, 16, 16))
    task: mtlcore.SupervisedTask = run.experiment.tasks["fer"].component
    names: list[str] = task.as_annotation(task.decode(outputs["fer"])).tolist()
    assert len(names) == len(features.pooled) == 2
    assert not module.training

    table: FeatureTable = run.features(
        "train", data="faces", overrides={"data.faces.train": 12}, progress=print
    )
    labels: np.ndarray[Any, Any] = table.labels["fer"]
    labeled: torch.Tensor = table.features[labels != ""]
    assert len(labeled) == len(table.keys)


main()
