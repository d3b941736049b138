"""The conformance kit sees what is wrong: each broken plugin fails its own check, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from broken_plugins import augmentations, datasets, encoders, sneaky_tasks, tasks, weightings

from mtlcore.testing import conformance
from mtlcore.testing.api import lists
from mtlcore.testing.common import COMMON

torch.set_num_threads(1)
KINDS = {
    "encoder": encoders,
    "augmentation": augmentations,
    "weighting": weightings,
    "dataset": datasets,
    "task": tasks,
}
CASES = [
    *((kind, check, cls) for kind, module in KINDS.items() for check, cls in module.BROKEN.items()),
    *(("task", check, cls) for check, cls in sneaky_tasks.ALSO),
]


@pytest.fixture
def fields(tmp_path):
    """kind -> the fields that its plugins need."""
    return lambda kind: {"root": datasets.written(tmp_path / "images")} if kind == "dataset" else {}


def own_checks(kind):
    """The checks that this kind has beside those of all kinds."""
    return lists()[kind][0].checks.keys() - {check.name for check in COMMON.checks}


@pytest.mark.parametrize("kind", KINDS)
def test_each_check_has_its_broken_plugin(kind):
    assert own_checks(kind) == KINDS[kind].BROKEN.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_plugin_that_they_are_made_of_is_right(kind, fields):
    report = conformance(kind, KINDS[kind].Right, examples=10, **fields(kind)).report()
    assert {o.name: o.reason for o in report.checks if o.status in ("failed", "blocked")} == {}


@pytest.mark.parametrize("cls", [tasks.Concordant, tasks.Parsing])
def test_a_coupled_and_a_dense_task_are_right_too(cls):
    report = conformance("task", cls, examples=10).report()
    assert {o.name: o.reason for o in report.checks if o.status in ("failed", "blocked")} == {}


@pytest.mark.parametrize(("kind", "check", "cls"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_a_broken_plugin_fails_its_own_check_alone(kind, check, cls, fields):
    suite = conformance(kind, cls, examples=10, **fields(kind))
    report = suite.report()
    status = {o.name: o.status for o in report.checks}
    assert {
        o.name: o.reason for o in report.checks if o.status == "failed" and o.name != check
    } == {}
    assert status[check] == "failed"
    blocked = {name for name, s in status.items() if s == "blocked"}
    assert blocked == dependents(suite.checks, check)


def dependents(checks, name):
    """What needs this check, directly or not."""
    found = {name}
    for check in checks.checks.values():  # prerequisites come first
        if found & set(check.needs):
            found.add(check.name)
    return found - {name}
