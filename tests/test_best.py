"""What `train.best` means: the metrics of a run, their directions, and the one that selects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve, frozen
from evaluation_worker import toy_run

from mtlcore import Callback, Classification, MtlError
from mtlcore.config.experiment import Experiment, TaskEntry, Train
from mtlcore.evaluation.best import LOSS, best_by, directions, weighted_loss


@frozen
class Counter(Callback):
    """Adds one metric, of which lower values are better."""

    def figures(self, experiment: Experiment) -> Mapping[str, bool]:
        return {"errors": False}


def run(best: str | None = None, **fields: Any) -> Experiment:
    fitted = TaskEntry(Classification(reads="kind", classes=("a", "b")))
    tasks = {"kind": fitted, "height": toy_run().tasks["height"]}
    train = Train(steps=1, best=best)
    return evolve(toy_run(), **({"tasks": tasks, "train": train} | fields))


def test_the_first_metric_of_the_first_task_selects_by_default() -> None:
    found = directions(run())
    assert best_by(run()) == "kind/accuracy"
    assert found["kind/accuracy"]
    assert not found["height/mae"]
    assert not found["barlow/loss"]


def test_a_matrix_has_no_direction() -> None:
    assert "kind/confusion" not in directions(run())


def test_without_tasks_the_weighted_sum_of_the_pretexts_losses_selects() -> None:
    without = run(tasks={})
    weights = {"puzzling": 0.5, "inpainting": 1.0, "barlow": 2.0, "byol": 0.25}
    pretexts = {
        label: evolve(entry, weight=weights[label]) for label, entry in without.pretexts.items()
    }
    without = evolve(without, pretexts=pretexts)
    assert best_by(without) == LOSS
    assert directions(without)[LOSS] is False
    assert LOSS not in directions(run())
    losses = {f"{label}/loss": 4.0 for label in weights}
    assert weighted_loss(without, losses) == pytest.approx(4.0 * sum(weights.values()))

    # The head of a control without loss is never trained.
    control = evolve(pretexts["barlow"], control="views_only")
    without = evolve(without, pretexts=pretexts | {"barlow": control})
    assert weighted_loss(without, losses) == pytest.approx(4.0 * (0.5 + 1.0 + 0.25))


@pytest.mark.parametrize("tasks", [True, False])
def test_a_metric_of_a_callback_can_select(tasks: bool) -> None:
    fields: dict[str, Any] = {"callbacks": {"counter": Counter()}}
    if not tasks:
        fields["tasks"] = {}
    chosen = run("counter/errors", **fields)
    assert best_by(chosen) == "counter/errors"
    assert directions(chosen)["counter/errors"] is False


@pytest.mark.parametrize(
    ("best", "message"),
    [
        ("kind/acuracy", r"no such metric; .*kind/accuracy"),
        ("kind/confusion", "no such metric"),
        ("barlow/loss", "no such metric"),
        ("counter/eror", r"callback\.counter adds no such metric; .*counter/errors"),
    ],
)
def test_a_metric_that_does_not_exist_is_refused_with_the_nearest(best: str, message: str) -> None:
    with pytest.raises(MtlError, match=rf"train\.best = '{best}': {message}"):
        best_by(run(best, callbacks={"counter": Counter()}))
