"""The pretext checks of the conformance kit: each one sees the plugin that is broken in its way, and only that one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mtlcore.testing as kit
from mtlcore.registry import Catalogue, catalogue
from mtlcore.rng import Streams
from mtlcore.testing.pretext_speed import HostReads
from mtlcore.testing.pretexts import CHECKS

FILE = Path(__file__).parent / "broken_plugins" / "pretexts.py"
ON_GPU = {"never_waits_for_the_gpu"}


@pytest.fixture(scope="module")
def broken() -> tuple[Catalogue, dict[str, type], object]:
    """The catalogue with the broken plugins' file, check -> class, and the module."""
    known = catalogue().copy()
    module = known.load_file(FILE).module()
    return known, module.BROKEN, module


def depend_on(check: str) -> set[str]:
    """All checks that need this one, directly or through others."""
    found = {check}
    for name, c in CHECKS.checks.items():  # prerequisites stand before
        if found & set(c.needs):
            found.add(name)
    return found - {check}


def statuses(report: kit.Report, status: str) -> set[str]:
    return {o.name for o in report.checks if o.status == status}


@pytest.mark.parametrize("name", ["Turned", "Hidden"])
def test_a_pretext_that_is_right_passes_every_check(broken, name):
    known, _, module = broken
    report = kit.conformance("pretext", getattr(module, name), known=known).report()
    assert not report.failed, [o.reason for o in report.checks if o.status == "failed"]
    assert not report.counts["blocked"]
    assert report.counts["ran"] >= 40


def test_the_two_that_are_right_leave_no_check_out(broken):
    known, _, module = broken
    names = [
        statuses(kit.conformance("pretext", getattr(module, name), known=known, examples=1).report(), "skipped")
        for name in ("Turned", "Hidden")
    ]
    assert set.intersection(*names) <= ON_GPU


def test_every_check_has_a_plugin_that_fails_it(broken):
    assert set(broken[1]) == set(CHECKS.checks)


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.parametrize("check", CHECKS.checks)
def test_a_broken_plugin_fails_its_own_check_and_no_other(broken, check):
    if check in ON_GPU and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    known, classes, _ = broken
    report = kit.conformance("pretext", classes[check], known=known, examples=3).report()
    assert statuses(report, "failed") == {check}, [o.reason for o in report.checks if o.status == "failed"]
    assert statuses(report, "blocked") == depend_on(check)


def test_a_broken_plugin_is_told_what_was_expected_why_and_how_to_mend_it(broken):
    known, classes, _ = broken
    suite = kit.conformance("pretext", classes["rigid_labels_follow_the_picture"], known=known, examples=5)
    said = suite.outcome("rigid_labels_follow_the_picture").reason
    for part in (
        "'forgets_the_matrix'",
        "expected:",
        "found:",
        "smallest failing example: Drawn(rows=2, size=32",
        "mend",
    ):
        assert part in said


# ---------------------------------------------------------------------------------------------------- the watch on host reads

READS = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "a branch": lambda x: 1 if x.sum() > 0 else 0,
    "a float": lambda x: float(x.sum()),
    "a mask read": lambda x: x[x > 0],
    "a mask written": lambda x: x.clone().index_put_((x > 0,), torch.ones(4)),
    "nonzero": lambda x: x.nonzero(),
    "classes counted by one_hot": lambda x: F.one_hot(x.long()),
}
NO_READS = {
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0),
    "where": lambda x: torch.where(x > 0, x, 0),
    "one value for a mask": lambda x: x.clone().index_put_((x > 0,), torch.tensor(0.0)),
    "one_hot of known classes": lambda x: F.one_hot(x.long(), 5),
    "our own host number": lambda x: Streams((0,))("size").integer(3, 9),
    "gather": lambda x: x.gather(0, x.long().argsort()),
    "cross_entropy": lambda x: F.cross_entropy(x[None], torch.tensor([1])),
}


@pytest.mark.parametrize("name", READS)
def test_what_the_host_reads_is_noticed_without_a_gpu(name):
    watch = HostReads()
    with watch.watched():
        READS[name](torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert watch.found


@pytest.mark.parametrize("name", NO_READS)
def test_what_stays_on_the_device_is_no_read(name):
    watch = HostReads()
    with watch.watched():
        NO_READS[name](torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert not watch.found
