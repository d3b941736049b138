"""Metrics of groups: those of the samples of each group alone, with their number."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from toy_datasets import InMemory, experiment
from toys import Plain

from mtlcore import Classification, SupervisedTask
from mtlcore.config.experiment import DataEntry
from mtlcore.data.dataset import open_data
from mtlcore.evaluation.groups import group_of, without_groups
from mtlcore.evaluation.measure import Measured, measure
from mtlcore.study.training import rounded

N = 40
RACES = np.array(["x", "y", "", "z"])[np.arange(N) % 4]
AGES = np.where(np.arange(N) < 25, "young", "old")
LABELS = tuple("" if i % 7 == 0 else "ab"[i % 3 == 0] for i in range(N))
PREDICTED = tuple("ab"[i % 5 < 2] for i in range(N))


class Oracle(nn.Module):
    """Reads the number of the sample in the image, and predicts its class of `PREDICTED`."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        samples = (images[:, 0, 0, 0] * 255).round().long()
        logits = torch.tensor([[kind == "a", kind == "b"] for kind in PREDICTED]).float()
        return {"kind": logits[samples]}


def measured(
    task: SupervisedTask, attributes: dict[str, np.ndarray], eval_batch_size: int = 256
) -> Measured:
    dataset = InMemory(N, LABELS, split=("train",) * N, attributes=attributes)
    toys = {"toys": DataEntry(dataset, unlabeled="keep")}
    run = experiment(toys, {"kind": task}, validation=0.0, eval_batch_size=eval_batch_size)
    resolved, data = open_data(evolve(run, augmentations={"validation": Plain()}))
    samples = data.split["train"]
    return measure(cast(Any, Oracle()), resolved, data, samples, torch.device("cpu"))


@pytest.mark.parametrize("batch", [256, 7])
def test_the_metrics_of_a_group_are_those_of_its_labeled_samples(batch):
    task = Classification(reads="kind", by=("race", "age_band"))
    found = measured(task, {"race": RACES, "age_band": AGES}, batch)
    right, labeled = np.array(PREDICTED) == np.array(LABELS), np.array(LABELS) != ""
    for attribute, values in (("race", RACES), ("age_band", AGES)):
        for value in set(values.tolist()) - {""}:
            here = labeled & (values == value)
            group = f"[{attribute}={value}]"
            accuracy = pytest.approx(right[here].mean(), abs=1e-6)
            assert found.metrics[f"kind/n{group}"] == here.sum()
            assert found.metrics[f"kind/accuracy{group}"] == accuracy
    assert found.metrics["kind/accuracy"] == pytest.approx(right[labeled].mean(), abs=1e-6)
    assert not [name for name in found.metrics if "[race=]" in name]
    assert list(found.metrics)[:3] == ["kind/accuracy", "kind/macro_f1", "kind/mean_class_accuracy"]
    assert list(found.tables) == ["kind/confusion"]


def test_attributes_that_the_data_lacks_are_ignored():
    plain = measured(Classification(reads="kind"), {"race": RACES})
    missing = measured(Classification(reads="kind", by=("race_", "age_band")), {"race": RACES})
    assert missing == plain
    assert not [name for name in plain.metrics if "[" in name]


def test_a_group_without_a_labeled_sample_is_left_out():
    labeled = np.where(np.array(LABELS) == "", "unlabeled", "labeled")
    found = measured(Classification(reads="kind", by=("who",)), {"who": labeled})
    assert [name for name in found.metrics if "[who=unlabeled]" in name] == []
    assert found.metrics["kind/n[who=labeled]"] == sum(name != "" for name in LABELS)


def test_a_metric_is_of_a_group_only_if_the_group_was_counted():
    all_samples = {"size/mae": 3.0, "size/mae_x [mm]": 1.0, "size/mae_y [mm]": 2.0}
    of_group = {f"{name}[sex=f]": value for name, value in all_samples.items()}
    metrics = all_samples | {"size/n[sex=f]": 4.0} | of_group
    assert without_groups(metrics) == all_samples
    assert rounded(metrics) == all_samples
    assert {group_of(name, metrics) for name in of_group} == {"sex=f"}
    # The count of another task is not one of this task.
    assert group_of("size/mae[sex=f]", ["size/mae[sex=f]", "kind/n[sex=f]"]) == ""
