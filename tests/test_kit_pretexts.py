"""The kit's checks of pretexts: each broken plugin fails its own check only."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
import torch
import torch.nn.functional as F
from attrs import field, frozen
from broken_plugins import sneaky, unexpected
from sabotage.table import SABOTAGES
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

import mtlcore.testing as kit
from mtlcore import EMA, Head, PretextTask
from mtlcore.registry.catalog import Catalog, catalog
from mtlcore.rng import KeyedRng
from mtlcore.testing.pretext.checks import CHECKS
from mtlcore.testing.pretext.speed import HostReads

FOLDER = Path(__file__).parent / "broken_plugins"
FILE, SNEAKY = FOLDER / "pretexts.py", FOLDER / "sneaky.py"
ON_GPU = "never_waits_for_the_gpu"
GROUPS = list(dict.fromkeys(check.group for check in CHECKS.checks.values()))


@pytest.fixture(scope="module")
def broken() -> tuple[Catalog, dict[str, type], object]:
    """A catalog with the files of broken plugins, check -> class, and the files' names."""
    known = catalog().copy()
    module, other = known.load_file(FILE).module(), known.load_file(SNEAKY).module()
    names = SimpleNamespace(**{**vars(other), **vars(module)})
    return known, {**module.BROKEN, **other.BROKEN}, names


def names_of(report: kit.Report, status: str) -> set[str]:
    return {outcome.name for outcome in report.of(status)}


HEAVY = [pytest.param(name, marks=pytest.mark.slow) for name in ("Hidden", "Together", "Drops")]


@pytest.mark.parametrize("name", ["Turned", *HEAVY])
def test_a_right_pretext_passes_every_check(broken, name):
    known, _, module = broken
    report = kit.conformance("pretext", getattr(module, name), known=known).report()
    assert [outcome.reason for outcome in report.of("failed", "blocked")] == []
    assert report.counts["ran"] >= 40


def test_the_right_pretexts_together_skip_no_check(broken):
    known, _, module = broken
    skipped = []
    for name in ("Turned", "Hidden", "Together"):
        suite = kit.conformance("pretext", getattr(module, name), known=known, examples=1)
        skipped.append(names_of(suite.report(), "skipped"))
    assert set.intersection(*skipped) <= {ON_GPU}


def test_every_check_has_a_plugin_that_fails_it(broken):
    assert set(broken[1]) == set(CHECKS.checks)


def plugins_in(group, classes):
    """(check, broken class) of a group, without the check that needs a GPU."""
    checks = [check.name for check in CHECKS.checks.values() if check.group == group]
    return [(name, classes[name]) for name in checks if name != ON_GPU]


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.usefixtures("unshrunk")
def test_a_broken_plugin_fails_its_own_check(broken, group, subtests):
    known, classes, _ = broken
    for check, cls in plugins_in(group, classes):
        with subtests.test(cls.__name__):
            suite = kit.conformance("pretext", cls, known=known, examples=3)
            assert suite.outcome(check).status == "failed"


@pytest.mark.slow  # a minute
@pytest.mark.filterwarnings("ignore:Dynamo does not know")
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.usefixtures("unshrunk")
def test_a_broken_plugin_fails_its_own_check_only(broken, group, subtests):
    known, classes, _ = broken
    for check, cls in plugins_in(group, classes):
        with subtests.test(cls.__name__):
            suite = kit.conformance("pretext", cls, known=known, examples=3)
            assert unexpected(suite, check) == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_plugin_that_waits_for_the_gpu_fails_its_own_check_only(broken):
    known, classes, _ = broken
    suite = kit.conformance("pretext", classes[ON_GPU], known=known, examples=3)
    assert unexpected(suite, ON_GPU) == ""


HIDDEN = sorted({check for check, _ in sneaky.ALSO})


@pytest.mark.slow
@pytest.mark.usefixtures("unshrunk")
def test_hidden_faults_fail_the_same_check_only(broken, subtests):
    for check in HIDDEN:
        with subtests.test(check=check):
            known, _, module = broken
            wrong = {}
            for cls in [cls for name, cls in sneaky.ALSO if name == check]:
                suite = kit.conformance(
                    "pretext", getattr(module, cls.__name__), known=known, examples=3
                )
                if found := unexpected(suite, check):
                    wrong[cls.__name__] = found
            assert not wrong, "\n\n".join(f"{name}: {found}" for name, found in wrong.items())


@pytest.mark.usefixtures("unshrunk")
def test_each_sabotaged_pretext_fails_the_check_that_names_its_fault():
    missed = []
    for what, check, cls in SABOTAGES:
        if kit.conformance("pretext", cls, examples=2).outcome(check).status != "failed":
            missed.append((what, check))
    assert not missed


def test_a_failure_names_the_plugin_what_was_expected_and_found_and_how_to_mend_it(broken):
    known, classes, _ = broken
    cls = classes["rigid_labels_follow_the_image"]
    suite = kit.conformance("pretext", cls, known=known, examples=5)
    reason = suite.outcome("rigid_labels_follow_the_image").reason
    for part in (
        "'forgets_the_matrix'",
        "expected:",
        "found:",
        "smallest failing example: Drawn(samples=2, size=32",
        "mend",
    ):
        assert part in reason


# -------------------------------------------------------------------------------- partial movements


@frozen
class Halves(PretextTask):
    """Which half is replaced by the other's mirror image? Parts move, the whole does not."""

    cites = "original"

    def views(self, augmented, rng):
        choice = 1 + rng.randint(2, len(augmented.clean.images))
        return [augmented.clean.rearrange(partial(halved, choice))], choice

    def build(self, context):
        return HalvesHead(context)

    def metrics(self):
        return {"left or not": Coarse()}


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
    """The accuracy of "the left half or not". It declares no best value."""

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


class Blindfolded(Coarse):
    """It reads the output, but not the target."""

    def update(self, output, target):
        super().update(output, torch.ones_like(target))


def halved(choice, maps):
    n = maps.shape[-1] // 2
    left, right = maps[..., :n], maps[..., n:]
    both_left = torch.cat((left, left.flip(-1)), -1)
    both_right = torch.cat((right.flip(-1), right), -1)
    return torch.stack([both_left, both_right])[choice - 1, torch.arange(len(maps))]


def test_if_only_parts_move_the_rigid_check_is_skipped_with_the_reason():
    outcome = kit.conformance("pretext", Halves).outcome("rigid_labels_follow_the_image")
    assert outcome.status == "skipped"
    assert "no view shows the image moved as a whole" in outcome.reason


def test_a_coarse_metric_may_be_equal_for_right_and_wrong_in_some_examples():
    suite = kit.conformance("pretext", Halves)
    assert suite.outcome("ideal_outputs_reach_the_best_metric").status == "passed"


def test_a_metric_may_be_a_matrix():
    @frozen
    class Confused(Halves):
        """One of its metrics is a table of confusions."""

        def metrics(self):
            return super().metrics() | {"confusion": MulticlassConfusionMatrix(3)}

    suite = kit.conformance("pretext", Confused, examples=3)
    metrics = {check.name for check in suite if check.check.group == "metrics"}
    assert {suite.outcome(name).status for name in metrics} == {"passed"}


def test_a_metric_that_never_separates_right_from_wrong_fails_and_names_plot_upper_bound():
    @frozen
    class Blind(Halves):
        """Its metric does not read the target."""

        def metrics(self):
            return {"blind": Blindfolded()}

    outcome = kit.conformance("pretext", Blind).outcome("ideal_outputs_reach_the_best_metric")
    assert outcome.status == "failed"
    assert "in every example" in outcome.reason
    assert "plot_upper_bound" in outcome.reason


def test_a_loss_that_sums_over_the_columns_of_an_image_grows_with_the_image():
    known = catalog().copy()
    module = known.load_file(FILE).module()

    class Summed(module.HiddenHead):
        def loss(self, output, target):
            return super().loss(output, target) * output.shape[-1] / 32

    @frozen
    class ByColumns(module.Hidden):
        """Its loss grows with the image size, not with the area."""

        def build(self, context):
            return Summed(context)

    suite = kit.conformance("pretext", ByColumns, known=known)
    assert suite.outcome("loss_does_not_grow_with_the_image").status == "failed"


@frozen
class DrawsFromTheGenerator(Halves):
    """It draws from the generator itself, as functions of torch do."""

    def views(self, augmented, rng):
        equal = torch.ones(len(augmented.clean.images), 2)
        choice = 1 + torch.multinomial(equal, 1, generator=rng.generator)[:, 0]
        return [augmented.clean.rearrange(partial(halved, choice))], choice


def test_draws_that_cannot_be_edited_are_no_fault():
    suite = kit.conformance("pretext", DrawsFromTheGenerator, examples=3)
    outcomes = [suite.outcome(c.name) for c in suite if c.check.group == "questions"]
    assert {outcome.status for outcome in outcomes} == {"skipped"}
    assert all("rng.generator" in outcome.reason for outcome in outcomes)


class FollowsHead(HalvesHead):
    """It has a momentum copy, whose momentum rises to `final`."""

    def __init__(self, context, final):
        super().__init__(context)
        self.copy = EMA(self.answer, 0.9, final)


@frozen
class Follows(Halves):
    """One of its settings changes a momentum, one the second half of the run, and one nothing."""

    momentum: Literal["constant", "rising"] = "constant"
    easier: bool = False
    idle: bool = False

    def build(self, context):
        return FollowsHead(context, {"constant": 0.9, "rising": 1.0}[self.momentum])

    def views(self, augmented, rng):
        (view,), choice = super().views(augmented, rng)
        brighter = self.easier and augmented.progress > 0.4
        return [view.repaint(view.images**0.5) if brighter else view], choice


def test_only_a_setting_without_any_effect_is_named():
    outcome = kit.conformance("pretext", Follows).outcome("each_choice_has_an_effect")
    assert outcome.status == "failed"
    assert "found:    idle = True computes the same as idle = False\n" in outcome.reason


@frozen
class Rounds(Follows):
    """One of its settings is read only beside another choice. A field has another name in TOML."""

    idle: bool = field(default=False, init=False)
    rounded: Literal["no", "yes"] = "no"
    up: bool = False
    factor_: float = field(default=1.0, alias="factor")
    mirrored_: bool = field(default=False, alias="mirrored")

    def views(self, augmented, rng):
        (view,), choice = super().views(augmented, rng)
        images = 1 - view.images if self.mirrored_ else view.images
        if self.rounded == "yes":
            images = (images * 8 + self.up).floor().clamp_max(8) / 8
        return [view.repaint(images)], choice


@frozen
class NeedsAFactor(Halves):
    """Its required field has another name in TOML."""

    factor_: float = field(alias="factor")


@frozen
class BreaksWithAChoice(Rounds):
    """Its second choice can't run."""

    def build(self, context):
        if self.mirrored_:
            _, _, _ = (1, 2)
        return super().build(context)


@frozen
class RefusesAChoice(Rounds):
    """Its second choice is refused."""

    def __attrs_post_init__(self):
        if self.mirrored_:
            raise ValueError("mirrored = true: this is not possible yet")


@pytest.mark.parametrize("cls", [Rounds, RefusesAChoice])
def test_a_setting_may_have_its_effect_beside_another_one(cls):
    outcome = kit.conformance("pretext", cls).outcome("each_choice_has_an_effect")
    assert (outcome.status, outcome.reason) == ("passed", "")


def test_a_choice_that_can_not_run_fails():
    outcome = kit.conformance("pretext", BreaksWithAChoice).outcome("each_choice_has_an_effect")
    assert "found:    with mirrored = True: ValueError: not enough values" in outcome.reason


def test_a_field_is_set_by_its_alias():
    with_field = kit.conformance("pretext", NeedsAFactor, factor=2.0)
    assert with_field.outcome("builds_from_its_name").status == "passed"
    outcome = kit.conformance("pretext", NeedsAFactor).outcome("builds_from_its_name")
    assert "no default and no value for factor\n" in outcome.reason
    given = kit.conformance("pretext", Rounds, factor=2.0)
    assert given.outcome("each_choice_has_an_effect").status == "skipped"


@frozen
class CitesNoYear(Halves):
    """A paper by its number."""

    cites = "Lee, arXiv:1703.00001"


def test_an_arxiv_number_dates_a_paper():
    outcome = kit.conformance("pretext", CitesNoYear).outcome("cites_its_origin")
    assert outcome.status == "passed"


# -------------------------------------------------------------------------------- reads on the host

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
    "a keyed host number": lambda x: KeyedRng((0,))("size").integer(3, 9),
    "gather": lambda x: x.gather(0, x.long().argsort()),
    "cross_entropy": lambda x: F.cross_entropy(x[None], torch.tensor([1])),
}


def reads_of(call):
    reads = HostReads()
    with reads.watched():
        call(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return reads.found


def test_reads_on_the_host_are_noticed_without_a_gpu():
    assert [name for name, call in READS.items() if not reads_of(call)] == []


def test_work_that_stays_on_the_device_is_no_read():
    assert {name: found for name, call in NO_READS.items() if (found := reads_of(call))} == {}


# --------------------------------------------------------------------- what a plugin may declare


@frozen
class Brightened(PretextTask):
    """Predict which of two gammas was applied, and how bright the image was: two outputs."""

    cites = "original"

    def views(self, batch, rng):
        images = batch.clean.images
        dark = rng.randint(2, len(images))
        view = batch.clean.repaint(images.clamp_min(0.01) ** self.gamma(dark))
        return [view], {"dark": dark, "mean": images.mean((1, 2, 3))}

    def gamma(self, dark):
        return (1 + dark)[:, None, None, None]

    def undo(self, view, target):
        return view ** (1 / self.gamma(target["dark"]))

    def build(self, context):
        return BrightenedHead(context)


class BrightenedHead(Head):
    choices: ClassVar = {"dark": 2}

    def __init__(self, context):
        super().__init__()
        self.answer = torch.nn.Linear(context.info.dim, 3)

    def forward(self, features):
        dark, mean = self.answer(features.pooled).split([2, 1], 1)
        return {"dark": dark, "mean": mean[:, 0]}

    def loss(self, output, target):
        error = (output["mean"] - target["mean"]).square()
        return F.cross_entropy(output["dark"], target["dark"], reduction="none") + error

    def ideal(self, target):
        return {"dark": 20.0 * F.one_hot(target["dark"], 2).float(), "mean": target["mean"]}


@frozen
class Rounded(Brightened):
    """The same, with a tolerance for its `undo`."""

    undo_tolerance = 0.01


@pytest.mark.slow
def test_an_undo_that_rounds_declares_its_tolerance():
    undo = "undo_restores_the_image"
    assert kit.conformance("pretext", Brightened).outcome(undo).status == "failed"
    report = kit.conformance("pretext", Rounded, examples=3).report()
    assert report.of("failed", "blocked") == []
    assert undo in names_of(report, "passed")


def test_choices_may_be_one_output_of_several():
    logits = "equal_logits_give_log_choices"
    assert kit.conformance("pretext", Rounded, examples=3).outcome(logits).status == "passed"


def test_a_tolerance_that_would_accept_any_image_fails():
    @frozen
    class Lenient(Brightened):
        """Its tolerance is the whole range."""

        undo_tolerance = 1.0

    outcome = kit.conformance("pretext", Lenient).outcome("undo_restores_the_image")
    assert "undo_tolerance = 1.0" in outcome.reason
