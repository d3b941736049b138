"""Optimizers, the learning rate, and the record of a run."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from mtlcore import MtlError
from mtlcore.config.experiment import Schedule, Train
from mtlcore.training.optim import lr_at
from mtlcore.training.record import Record
from mtlcore.training.setup import _steps


def test_cosine_warms_up_linearly_and_ends_near_zero():
    schedule = Schedule(warmup=100)
    assert [lr_at(1.0, schedule, s, 1000) for s in (0, 49, 99)] == pytest.approx([0.01, 0.5, 1.0])
    assert lr_at(1.0, schedule, 100, 1000) == 1.0
    assert lr_at(1.0, schedule, 550, 1000) == pytest.approx(0.5)
    assert lr_at(1.0, schedule, 999, 1000) == pytest.approx(
        0.5 * (1 + math.cos(math.pi * 899 / 900))
    )


def test_step_decay_divides_at_each_milestone():
    schedule = Schedule(name="step", warmup=0, milestones=(0.2, 0.5), gamma=0.1)
    assert [lr_at(1.0, schedule, s, 100) for s in (19, 20, 49, 50, 99)] == pytest.approx(
        [1, 0.1, 0.1, 0.01, 0.01]
    )


def test_a_warm_up_longer_than_the_run_is_cut_to_half_of_it():
    schedule = Schedule(name="constant", warmup=1000)
    assert lr_at(1.0, schedule, 5, 10) == 1.0


def test_exactly_one_of_steps_and_epochs_must_be_set():
    with pytest.raises(MtlError, match="epochs"):
        Train(steps=1, epochs=1.0)
    with pytest.raises(MtlError, match="epochs"):
        Train()


@pytest.mark.parametrize(("epochs", "steps"), [(1.1, 110), (0.07, 7), (0.001, 1), (2, 200)])
def test_epochs_are_rounded_up_to_whole_steps_but_not_by_rounding_errors(epochs, steps):
    experiment = SimpleNamespace(train=Train(epochs=epochs))
    assert _steps(experiment, SimpleNamespace(steps_per_epoch=100)) == steps


def logged(loss: float, skipped: bool) -> dict[str, torch.Tensor]:
    return {"loss/a": torch.tensor(loss), "skipped": torch.tensor(skipped)}


def test_a_record_takes_means_over_good_steps_and_counts_the_others():
    record = Record(max_skipped=3)
    for loss, skipped in ((1.0, False), (float("nan"), True), (3.0, False)):
        record.add(logged(loss, skipped), encoded=10)
    record.add({"loss/b": torch.tensor(5.0), "skipped": torch.tensor(False)}, encoded=10)
    assert record.flush() == {"loss/a": 2.0, "loss/b": 5.0}
    assert (record.skipped, record.encoded) == (1, 40)
    assert record.flush() == {}


def test_bad_steps_in_a_row_are_counted_over_flushes_and_resumes():
    record = Record(max_skipped=3)
    record.add(logged(0.0, True), 1)
    record.add(logged(0.0, True), 1)
    record.flush()
    resumed = Record(max_skipped=3)
    resumed.load(record.state(), torch.device("cpu"))
    resumed.add(logged(0.0, True), 1)
    with pytest.raises(MtlError, match="3 steps in a row"):
        resumed.flush()
