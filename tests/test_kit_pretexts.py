"""The pretext checks of the conformance kit: each one sees the plugin that is broken in its way, and only that one does."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen
from broken_plugins import sneaky
from torchmetrics import Metric

import mtlcore.testing as kit
from mtlcore import Head, PretextTask
from mtlcore.registry.catalog import Catalog, catalog
from mtlcore.rng import KeyedRng
from mtlcore.testing.pretext.checks import CHECKS
from mtlcore.testing.pretext.speed import HostReads

FOLDER = Path(__file__).parent / "broken_plugins"
FILE, SNEAKY = FOLDER / "pretexts.py", FOLDER / "sneaky.py"
ON_GPU = {"never_waits_for_the_gpu"}


@pytest.fixture(scope="module")
def broken() -> tuple[Catalog, dict[str, type], object]:
    """The catalog with the broken plugins' files, check -> class, and their names."""
    known = catalog().copy()
    module, other = known.load_file(FILE).module(), known.load_file(SNEAKY).module()
    return (
        known,
        {**module.BROKEN, **other.BROKEN},
        SimpleNamespace(**{**vars(other), **vars(module)}),
    )


def depend_on(check: str) -> set[str]:
    """All checks that need this one, directly or through others."""
    found = {check}
    for name, c in CHECKS.checks.items():  # prerequisites stand before
        if found & set(c.needs):
            found.add(name)
    return found - {check}


def statuses(report: kit.Report, status: str) -> set[str]:
    return {o.name for o in report.checks if o.status == status}


@pytest.mark.parametrize("name", ["Turned", "Hidden", "Together", "Drops"])
def test_a_pretext_that_is_right_passes_every_check(broken, name):
    known, _, module = broken
    report = kit.conformance("pretext", getattr(module, name), known=known).report()
    assert not report.failed, [o.reason for o in report.checks if o.status == "failed"]
    assert not report.counts["blocked"]
    assert report.counts["ran"] >= 40


def test_those_that_are_right_leave_no_check_out(broken):
    known, _, module = broken
    names = [
        statuses(
            kit.conformance("pretext", getattr(module, name), known=known, examples=1).report(),
            "skipped",
        )
        for name in ("Turned", "Hidden", "Together")
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
    assert statuses(report, "failed") == {check}, [
        o.reason for o in report.checks if o.status == "failed"
    ]
    assert statuses(report, "blocked") == depend_on(check)


@pytest.mark.parametrize(("check", "name"), [(check, cls.__name__) for check, cls in sneaky.ALSO])
def test_a_fault_that_hides_is_found_by_the_same_check(broken, check, name):
    known, _, module = broken
    report = kit.conformance("pretext", getattr(module, name), known=known, examples=3).report()
    assert statuses(report, "failed") == {check}, [
        o.reason for o in report.checks if o.status == "failed"
    ]
    assert statuses(report, "blocked") == depend_on(check)


def test_a_broken_plugin_is_told_what_was_expected_why_and_how_to_mend_it(broken):
    known, classes, _ = broken
    suite = kit.conformance(
        "pretext", classes["rigid_labels_follow_the_image"], known=known, examples=5
    )
    said = suite.outcome("rigid_labels_follow_the_image").reason
    for part in (
        "'forgets_the_matrix'",
        "expected:",
        "found:",
        "smallest failing example: Drawn(samples=2, size=32",
        "mend",
    ):
        assert part in said


@frozen
class Halves(PretextTask):
    """Which half, if any, has been replaced by the other's mirror image? Parts move, the whole does not."""

    cites = "original"

    def views(self, augmented, rng):
        choice = 1 + rng.randint(2, len(augmented.clean.images))
        return [augmented.clean.rearrange(partial(halved, choice))], choice

    def build(self, context):
        return HalvesHead(context)

    def metrics(self):
        return {"whole or not": Coarse()}


class HalvesHead(Head):
    choices = 3

    def __init__(self, context):
        super().__init__()
        self.answer = torch.nn.Linear(context.info.dim, 3)

    def forward(self, features):
        return self.answer(features.pooled)

    def loss(self, output, target):
        return F.cross_entropy(output, target, reduction="none")

    def ideal(self, target):
        return 20.0 * F.one_hot(target, 3).float()


class Coarse(Metric):
    """Accuracy of "the left half or not"; its best is declared nowhere."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.add_state("right", torch.tensor(0.0), "sum")
        self.add_state("samples", torch.tensor(0.0), "sum")

    def update(self, output, target):
        self.right += ((output.argmax(1) == 1) == (target == 1)).sum()
        self.samples += len(target)

    def compute(self):
        return self.right / self.samples


class Constant(Coarse):
    """It is 1, whatever is answered."""

    def compute(self):
        return torch.tensor(1.0)


def halved(choice, maps):
    n = maps.shape[-1] // 2
    left, right = maps[..., :n], maps[..., n:]
    pair = torch.stack([torch.cat(p, -1) for p in ((left, left.flip(-1)), (right.flip(-1), right))])
    return pair[choice - 1, torch.arange(len(maps))]


def test_where_parts_move_the_rigid_check_proves_nothing_and_says_so():
    outcome = kit.conformance("pretext", Halves).outcome("rigid_labels_follow_the_image")
    assert outcome.status == "skipped"
    assert "no view shows the image moved as a whole" in outcome.reason


def test_a_coarse_metric_that_finds_two_other_samples_as_right_is_no_failure():
    assert (
        kit.conformance("pretext", Halves).outcome("perfect_answers_reach_the_best").status
        == "passed"
    )


def test_a_metric_that_never_tells_right_from_wrong_fails_and_the_way_to_declare_its_best_is_told():
    @frozen
    class Blind(Halves):
        """It measures nothing."""

        def metrics(self):
            return {"constant": Constant()}

    outcome = kit.conformance("pretext", Blind).outcome("perfect_answers_reach_the_best")
    assert outcome.status == "failed"
    assert "in every example" in outcome.reason
    assert "plot_upper_bound" in outcome.reason


def test_a_loss_that_is_a_mean_over_samples_of_pixels_and_a_sum_over_columns_is_seen():
    known = catalog().copy()
    module = known.load_file(FILE).module()

    class Summed(module.HiddenHead):
        def loss(self, output, target):
            return super().loss(output, target) * output.shape[-1] / 32

    @frozen
    class ByColumns(module.Hidden):
        """Its loss grows with the side, not with the area."""

        def build(self, context):
            return Summed(context)

    suite = kit.conformance("pretext", ByColumns, known=known)
    assert suite.outcome("loss_does_not_grow_with_the_image").status == "failed"


# ---------------------------------------------------------------------------------------------------- the reads on host reads

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
    "our own host number": lambda x: KeyedRng((0,))("size").integer(3, 9),
    "gather": lambda x: x.gather(0, x.long().argsort()),
    "cross_entropy": lambda x: F.cross_entropy(x[None], torch.tensor([1])),
}


@pytest.mark.parametrize("name", READS)
def test_what_the_host_reads_is_noticed_without_a_gpu(name):
    reads = HostReads()
    with reads.watched():
        READS[name](torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert reads.found


@pytest.mark.parametrize("name", NO_READS)
def test_what_stays_on_the_device_is_no_read(name):
    reads = HostReads()
    with reads.watched():
        NO_READS[name](torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert not reads.found
