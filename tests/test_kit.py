"""The conformance kit's engine: statuses and their reasons, what can be switched off, how failures are told, its three entry points."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from attrs import frozen
from hypothesis import strategies as st

import mtlcore.testing as kit
from mtlcore import MtlError
from mtlcore.registry.catalog import catalog
from mtlcore.testing.kit import CheckList, Conformance, Group, Skip, Unproven, require

HERE = Path(__file__).parent
BROKEN = HERE / "broken_plugins" / "pretexts.py"


@frozen
class Plugin:
    """What these checks look at: numbers below `limit` are right."""

    limit: int = 100
    fault: str = ""


def numbers() -> Group:
    """Checks that need each other: made -> small -> even; `shiny` is a capability; `told` is never asked."""
    checks = Group()

    @checks.check("first", why="w", mend="m", core=True)
    def made(plugin: Plugin) -> None:
        """It is made."""
        require(plugin.fault != "made", "it is not made")

    @checks.check("second", why="numbers grow", mend="keep them small", needs="made")
    def small(plugin: Plugin, number: int) -> None:
        """Every number is below the limit."""
        require(number < plugin.limit, f"{number} is too large")

    @checks.check("second", why="w", mend="m", needs=("made", "small"))
    def even(plugin: Plugin) -> None:
        """It is even."""

    @checks.check("third", why="w", mend="m", capability="shiny")
    def shines(plugin: Plugin) -> None:
        """It shines."""
        require(plugin.fault != "dull", "it is dull")

    @checks.check("third", why="w", mend="m")
    def told(plugin: Plugin) -> None:
        """It tells."""
        raise Skip("it has nothing to tell")

    return checks


def listed(checks: Group) -> CheckList:
    return CheckList("toy", st.integers(0, 50), [checks])


def held(plugin: Plugin, **options: Any) -> Conformance:
    return Conformance("plug", listed(numbers()), plugin, **options)


def status(suite: Conformance) -> dict[str, str]:
    return {o.name: o.status for o in suite.report().checks}


# ---------------------------------------------------------------------------------------------------- statuses


def test_a_right_plugin_passes_and_what_does_not_apply_is_skipped_with_its_reason():
    report = held(Plugin()).report()
    assert {o.name: o.status for o in report.checks} == dict.fromkeys(
        ["made", "small", "even", "shines"], "passed"
    ) | {"told": "skipped"}
    assert report.checks[-1].reason == "it has nothing to tell"
    assert not report.failed


def test_what_needs_a_failed_check_is_blocked_through_any_number_of_steps():
    suite = held(Plugin(fault="made"))
    assert status(suite) == {
        "made": "failed",
        "small": "blocked",
        "even": "blocked",
        "shines": "passed",
        "told": "skipped",
    }
    assert "made" in suite.outcome("even").reason


def test_a_skipped_prerequisite_blocks_nothing():
    checks = numbers()

    @checks.check("fourth", why="w", mend="m", needs="told")
    def after(plugin: Plugin) -> None:
        """It goes on."""

    assert Conformance("plug", listed(checks), Plugin()).outcome("after").status == "passed"


def test_a_lacking_capability_is_skipped_and_its_reason_is_printed():
    outcome = held(Plugin(fault="dull"), lacks={"shiny": "it is made of wood"}).outcome("shines")
    assert (outcome.status, outcome.reason) == ("skipped", "lacks shiny: it is made of wood")


def test_without_the_declaration_a_capability_is_expected():
    assert held(Plugin(fault="dull")).outcome("shines").status == "failed"


def test_a_failure_that_is_expected_is_xfailed_with_the_reason_given():
    outcome = held(Plugin(limit=10), xfail={"small": "mended in May"}).outcome("small")
    assert (outcome.status, outcome.reason) == ("xfailed", "mended in May")


def test_xfail_is_strict():
    outcome = held(Plugin(), xfail={"small": "mended in May"}).outcome("small")
    assert outcome.status == "failed"
    assert "mended in May" in outcome.reason


def test_what_needs_an_xfailed_check_is_blocked():
    assert held(Plugin(limit=10), xfail={"small": "soon"}).outcome("even").status == "blocked"


def test_each_check_runs_once():
    calls: list[int] = []
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def counted(plugin: Plugin) -> None:
        """It is counted."""
        calls.append(1)

    suite = Conformance("plug", listed(checks), Plugin())
    for _ in range(3):
        suite.report()
    for check in suite:
        check()
    assert len(calls) == 1


@pytest.mark.parametrize(("most", "status"), [(-1, "skipped"), (0, "passed"), (50, "passed")])
def test_examples_that_prove_nothing_are_skipped_where_all_of_them_do(most, status):
    """`most`: the largest number that proves something; Hypothesis always draws 0."""
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def seen(plugin: Plugin, number: int) -> None:
        """It is seen."""
        if number > most:
            raise Unproven("nothing to see")

    outcome = Conformance("plug", listed(checks), Plugin()).outcome("seen")
    assert (outcome.status, outcome.reason) == (
        status,
        "nothing to see" if status == "skipped" else "",
    )


def test_a_check_that_shows_something_fails_where_no_example_shows_it():
    checks = Group()

    @checks.check("first", why="w", mend="m", shows=True)
    def seen(plugin: Plugin, number: int) -> None:
        """It is seen."""
        raise Unproven("nothing to see")

    outcome = Conformance("plug", listed(checks), Plugin()).outcome("seen")
    assert outcome.status == "failed"
    assert "nothing to see, in every example" in outcome.reason
    assert "smallest failing example" not in outcome.reason


def test_a_failing_example_counts_though_others_prove_nothing():
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def seen(plugin: Plugin, number: int) -> None:
        """It is seen."""
        if number < 20:
            raise Unproven("too small to see")
        require(number < 30, f"{number} is too large")

    assert (
        "smallest failing example: 30"
        in Conformance("plug", listed(checks), Plugin()).outcome("seen").reason
    )


def test_what_takes_long_to_import_is_there_before_the_clock_starts():
    """Its seconds belong to no check."""
    slow = types.ModuleType("slow_of_the_kit")
    calls: list[str] = []

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            return importlib.machinery.ModuleSpec(name, self) if name == slow.__name__ else None

        def create_module(self, spec):
            calls.append("imported")
            return slow

        def exec_module(self, module):
            pass

    checks = Group()

    @checks.check("first", why="w", mend="m")
    def run(plugin: Any) -> None:
        """It runs."""
        calls.append("ran")

    subject = types.SimpleNamespace(imports=(slow.__name__,))
    sys.meta_path.insert(0, finder := Finder())
    try:
        assert Conformance("plug", listed(checks), subject).outcome("run").status == "passed"
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop(slow.__name__, None)
    assert calls == ["imported", "ran"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"xfail": {"smal": "x"}}, "did you mean 'small'"),
        ({"xfail": {"made": "x"}}, "core check can't be switched off"),
        ({"lacks": {"shinny": "x"}}, "did you mean 'shiny'"),
    ],
)
def test_names_that_there_are_not_and_core_checks_are_refused(options, said):
    with pytest.raises(MtlError, match=said):
        held(Plugin(), **options)


# ---------------------------------------------------------------------------------------------------- failures, reports


def test_the_smallest_failing_example_is_told():
    said = held(Plugin(limit=17)).outcome("small").reason
    assert "smallest failing example: 17" in said
    assert "found:    17 is too large" in said


def test_a_pretext_that_breaks_from_three_samples_on_is_told_with_three_samples():
    known = catalog().copy()
    module: Any = known.load_file(BROKEN).module()
    suite = kit.conformance("pretext", module.BreaksFromThreeRows, known=known)
    assert "Drawn(samples=3, size=32, seed=0)" in suite.outcome("values_stay_in_range").reason


def test_a_failure_names_plugin_and_check_says_why_it_matters_and_how_to_mend_it():
    said = held(Plugin(limit=17)).outcome("small").reason.splitlines()
    assert said[0] == "toy 'plug' fails small"
    assert said[1].split(maxsplit=1)[1] == "Every number is below the limit."
    assert [line.split(":")[1].strip() for line in said[-2:]] == ["numbers grow", "keep them small"]


def test_whatever_a_plugin_raises_is_its_failure_and_is_named():
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def crashes(plugin: Plugin) -> None:
        """It does not crash."""
        raise KeyError("tile")

    assert (
        "KeyError: 'tile'"
        in Conformance("plug", listed(checks), Plugin()).outcome("crashes").reason
    )


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize(
    "error", [SkipTest("not here"), SystemExit(0), GeneratorExit(), pytest.skip.Exception("no")]
)
def test_a_plugin_that_skips_or_exits_has_failed(error, drawn):
    checks = Group()

    def leaves(plugin: Plugin) -> None:
        """It stays."""
        raise error

    def leaves_drawn(plugin: Plugin, number: int) -> None:
        """It stays, whatever is drawn."""
        raise error

    checks.check("first", why="w", mend="m")(leaves_drawn if drawn else leaves)
    (outcome,) = Conformance("plug", listed(checks), Plugin()).report().checks
    assert outcome.status == "failed"
    assert type(error).__name__ in outcome.reason


def test_who_presses_ctrl_c_ends_the_run_of_the_checks():
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def interrupted(plugin: Plugin) -> None:
        """It is interrupted."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Conformance("plug", listed(checks), Plugin()).report()


def test_the_report_counts_what_ran_and_what_did_not():
    counts = (
        held(Plugin(limit=10), lacks={"shiny": "wood"}, xfail={"small": "soon"}).report().counts
    )
    assert counts == {"ran": 2, "passed": 1, "failed": 0, "skipped": 2, "blocked": 1, "xfailed": 1}


def test_the_report_is_json_with_a_row_a_check():
    said = json.loads(json.dumps(held(Plugin(limit=10)).report().as_json()))
    assert (said["plugin"], said["kind"]) == ("plug", "toy")
    assert [row["name"] for row in said["checks"]] == ["made", "small", "even", "shines", "told"]
    assert all(set(row) == {"name", "status", "reason", "seconds"} for row in said["checks"])
    assert said["counts"]["failed"] == 1


def test_outcomes_are_told_as_they_come():
    told: list[str] = []
    held(Plugin()).report(lambda outcome: told.append(outcome.name))
    assert told == ["made", "small", "even", "shines", "told"]


def test_no_more_examples_are_drawn_than_are_asked_for():
    seen: list[int] = []
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def looked(plugin: Plugin, number: int) -> None:
        """It is looked at."""
        seen.append(number)

    Conformance("plug", listed(checks), Plugin(), examples=7).report()
    assert 1 <= len(seen) <= 7


# ---------------------------------------------------------------------------------------------------- entry points


def test_an_unknown_plugin_field_or_kind_is_refused_with_the_nearest_name():
    with pytest.raises(MtlError, match="puzzling"):
        kit.pretext_checks("puzling")
    with pytest.raises(MtlError, match="grid"):
        kit.pretext_checks("puzzling", gird=3)
    with pytest.raises(MtlError, match="pretext"):
        kit.checks("pretexts", "puzzling")


def test_checks_are_plain_callables_with_a_name_a_capability_and_a_doc():
    checks = {c.name: c for c in kit.pretext_checks("puzzling", examples=1, grid=2)}
    assert checks["one_sample_is_enough"].capability == "single_sample"
    assert checks["views_are_images"].doc.startswith("At least one view")
    assert checks["views_are_images"]() is None


def test_a_plain_callable_raises_the_whole_story():
    (check,) = [c for c in held(Plugin(limit=17)) if c.name == "small"]
    with pytest.raises(AssertionError, match="smallest failing example: 17"):
        check()


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_one_line_under_pytest_makes_a_test_of_each_check(tmp_path):
    file = tmp_path / "test_mine.py"
    file.write_text(
        "import mtlcore.testing\n"
        'test_conformance = mtlcore.testing.pretext_conformance("puzzling", grid=2, examples=2)\n'
    )
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(file), cwd=tmp_path)
    checks = len(kit.pretext_checks("puzzling"))
    assert done.returncode == 0, done.stdout[-3000:]
    ran, skipped = (int(done.stdout.split(word)[0].split()[-1]) for word in (" passed", " skipped"))
    assert (ran + skipped, ran > 40) == (checks, True)


def test_checks_still_check_under_python_o(tmp_path):
    """-O leaves out every `assert`: a broken plugin must not pass by it."""
    script = (
        "import sys; from mtlcore.registry import catalog; import mtlcore.testing as kit\n"
        f"known = catalog().copy(); module = known.load_file({str(BROKEN)!r}).module()\n"
        "for check in ('says_where_it_comes_from', 'rigid_labels_follow_the_image', 'equal_logits_lose_log_choices'):\n"
        "    outcome = kit.conformance('pretext', module.BROKEN[check], known=known, examples=3).outcome(check)\n"
        "    if outcome.status != 'failed': sys.exit(f'{check} {outcome.status}')\n"
    )
    done = python("-O", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
