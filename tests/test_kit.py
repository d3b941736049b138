"""The core of the conformance kit: statuses, reports, explanations, and the entry points."""

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
from mtlcore.testing import api
from mtlcore.testing.kit import CheckList, Conformance, Group
from mtlcore.testing.requirements import Skip, Unproven, require
from mtlcore.testing.subject import Subject

HERE = Path(__file__).parent
BROKEN = HERE / "broken_plugins" / "pretexts.py"


@frozen
class Plugin:
    """A toy plugin: numbers below `limit` are right."""

    limit: int = 100
    fault: str = ""


def numbers() -> Group:
    """Checks with prerequisites (made -> small -> even), a capability (shiny), and a skip."""
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
    def optional(plugin: Plugin) -> None:
        """It has an optional part."""
        raise Skip("it has no optional part")

    return checks


NAMES = ["made", "small", "even", "shines", "optional"]


def listed(checks: Group) -> CheckList:
    return CheckList("toy", lambda: st.integers(0, 50), [checks])


def suite_of(plugin: Plugin, **options: Any) -> Conformance:
    return Conformance("plug", listed(numbers()), plugin, **options)


def suite_with(run: Any, **options: Any) -> Conformance:
    """A suite with this function as its only check."""
    checks = Group()
    checks.check("first", why="w", mend="m", **options)(run)
    return Conformance("plug", listed(checks), Plugin())


def statuses(suite: Conformance) -> dict[str, str]:
    return {outcome.name: outcome.status for outcome in suite.report().checks}


# ----------------------------------------------------------------------------------------- statuses


def test_a_right_plugin_passes_and_what_does_not_apply_is_skipped_with_its_reason():
    report = suite_of(Plugin()).report()
    expected = dict.fromkeys(["made", "small", "even", "shines"], "passed")
    assert {o.name: o.status for o in report.checks} == {**expected, "optional": "skipped"}
    assert report.checks[-1].reason == "it has no optional part"
    assert not report.failed


def test_a_check_that_needs_a_failed_one_is_blocked_directly_or_through_others():
    suite = suite_of(Plugin(fault="made"))
    assert statuses(suite) == {
        "made": "failed",
        "small": "blocked",
        "even": "blocked",
        "shines": "passed",
        "optional": "skipped",
    }
    assert "made" in suite.outcome("even").reason


def test_a_skipped_prerequisite_blocks_nothing():
    checks = numbers()

    @checks.check("fourth", why="w", mend="m", needs="optional")
    def after(plugin: Plugin) -> None:
        """It continues."""

    assert Conformance("plug", listed(checks), Plugin()).outcome("after").status == "passed"


def test_a_lacking_capability_is_skipped_with_its_reason_and_expected_otherwise():
    dull = Plugin(fault="dull")
    outcome = suite_of(dull, lacks={"shiny": "it is made of wood"}).outcome("shines")
    assert (outcome.status, outcome.reason) == ("skipped", "lacks shiny: it is made of wood")
    assert suite_of(dull).outcome("shines").status == "failed"


def test_an_expected_failure_is_xfailed_with_its_reason_and_blocks_what_needs_it():
    suite = suite_of(Plugin(limit=10), xfail={"small": "fixed in May"})
    outcome = suite.outcome("small")
    assert (outcome.status, outcome.reason) == ("xfailed", "fixed in May")
    assert suite.outcome("even").status == "blocked"


def test_an_expected_failure_blocks_no_core_check():
    checks = numbers()

    @checks.check("fourth", why="w", mend="m", needs="even", core=True)
    def sound(plugin: Plugin) -> None:
        """It is sound."""
        require(plugin.fault != "hollow", "it is hollow")

    def outcome_of(plugin: Plugin, **options: Any) -> str:
        suite = Conformance("plug", listed(checks), plugin, **options)
        assert suite.outcome("even").status == "blocked"
        return suite.outcome("sound").status

    xfail = {"small": "fixed in May"}
    assert outcome_of(Plugin(limit=10), xfail=xfail) == "passed"
    assert outcome_of(Plugin(limit=10, fault="hollow"), xfail=xfail) == "failed"
    assert outcome_of(Plugin(limit=10)) == "blocked"


def test_xfail_is_strict():
    outcome = suite_of(Plugin(), xfail={"small": "fixed in May"}).outcome("small")
    assert outcome.status == "failed"
    assert "fixed in May" in outcome.reason


def test_each_check_runs_once():
    calls: list[int] = []

    def counted(plugin: Plugin) -> None:
        """It is counted."""
        calls.append(1)

    suite = suite_with(counted)
    for _ in range(3):
        suite.report()
    for check in suite:
        check()
    assert len(calls) == 1


@pytest.mark.parametrize(("most", "status"), [(-1, "skipped"), (0, "passed"), (50, "passed")])
def test_a_check_is_skipped_if_no_example_proves_anything(most, status):
    """`most`: the largest number that proves something. Hypothesis always draws 0."""

    def seen(plugin: Plugin, number: int) -> None:
        """It is seen."""
        if number > most:
            raise Unproven("nothing to see")

    outcome = suite_with(seen).outcome("seen")
    reason = "nothing to see" if status == "skipped" else ""
    assert (outcome.status, outcome.reason) == (status, reason)


def test_a_check_that_must_prove_something_fails_if_no_example_does():
    def seen(plugin: Plugin, number: int) -> None:
        """It is seen."""
        raise Unproven("nothing to see")

    outcome = suite_with(seen, must_prove=True).outcome("seen")
    assert outcome.status == "failed"
    assert "nothing to see, in every example" in outcome.reason
    assert "smallest failing example" not in outcome.reason


def test_a_failing_example_counts_though_others_prove_nothing():
    def seen(plugin: Plugin, number: int) -> None:
        """It is seen."""
        if number < 20:
            raise Unproven("too small to see")
        require(number < 30, f"{number} is too large")

    assert "smallest failing example: 30" in suite_with(seen).outcome("seen").reason


def test_slow_imports_happen_before_the_time_of_a_check_is_measured():
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


def test_unknown_names_and_core_checks_are_refused():
    with pytest.raises(MtlError, match="unknown check 'smal'; did you mean 'small'"):
        suite_of(Plugin(), xfail={"smal": "x"})
    with pytest.raises(MtlError, match="a core check cannot be switched off"):
        suite_of(Plugin(), xfail={"made": "x"})
    with pytest.raises(MtlError, match="unknown capability 'shinny'; did you mean 'shiny'"):
        suite_of(Plugin(), lacks={"shinny": "x"})


# -------------------------------------------------------------------------------- failures, reports


def test_a_failure_names_plugin_check_example_reason_and_fix():
    reason = suite_of(Plugin(limit=17)).outcome("small").reason
    lines = reason.splitlines()
    assert lines[0] == "toy 'plug' fails small"
    assert lines[1].split(maxsplit=1)[1] == "Every number is below the limit."
    assert "found:    17 is too large" in reason
    assert "smallest failing example: 17" in reason
    assert [line.split(":")[1].strip() for line in lines[-2:]] == [
        "numbers grow",
        "keep them small",
    ]


def test_a_pretext_that_breaks_from_three_samples_on_has_an_example_of_three_samples():
    known = catalog().copy()
    module: Any = known.load_file(BROKEN).module()
    suite = kit.conformance("pretext", module.BreaksFromThreeSamples, known=known)
    assert "Drawn(samples=3, size=32, seed=0)" in suite.outcome("values_stay_in_range").reason


def test_any_exception_of_a_plugin_is_a_failure_with_its_name():
    def crashes(plugin: Plugin) -> None:
        """It does not crash."""
        raise KeyError("tile")

    assert "KeyError: 'tile'" in suite_with(crashes).outcome("crashes").reason


def test_a_plugin_that_is_wrong_only_sometimes_fails_with_the_message_of_the_check():
    calls: list[int] = []

    def stays_small(plugin: Plugin, number: int) -> None:
        """It stays small."""
        calls.append(number)
        require(len(calls) != 4, f"{number} is too large")

    reason = suite_with(stays_small).outcome("stays_small").reason
    assert f"found:    {calls[3]} is too large, but not in every call" in reason


@pytest.mark.parametrize(
    "error", [SkipTest("not here"), SystemExit(0), GeneratorExit(), pytest.skip.Exception("no")]
)
def test_a_plugin_that_skips_or_exits_fails(error):
    def leaves(plugin: Plugin) -> None:
        """It stays."""
        raise error

    def leaves_drawn(plugin: Plugin, number: int) -> None:
        """It stays for all examples."""
        raise error

    for run in (leaves, leaves_drawn):
        (outcome,) = suite_with(run).report().checks
        assert outcome.status == "failed"
        assert type(error).__name__ in outcome.reason


def test_ctrl_c_ends_the_run():
    def interrupted(plugin: Plugin) -> None:
        """It is interrupted."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suite_with(interrupted).report()


def test_the_report_counts_each_status():
    suite = suite_of(Plugin(limit=10), lacks={"shiny": "wood"}, xfail={"small": "soon"})
    assert suite.report().counts == {
        "ran": 2,
        "passed": 1,
        "failed": 0,
        "skipped": 2,
        "blocked": 1,
        "xfailed": 1,
    }


def test_the_report_is_json_with_a_row_for_each_check():
    report = json.loads(json.dumps(suite_of(Plugin(limit=10)).report().as_json()))
    assert (report["plugin"], report["kind"]) == ("plug", "toy")
    assert [row["name"] for row in report["checks"]] == NAMES
    assert all(set(row) == {"name", "status", "reason", "seconds"} for row in report["checks"])
    assert report["counts"]["failed"] == 1


def test_outcomes_are_reported_in_turn():
    names: list[str] = []
    suite_of(Plugin()).report(lambda outcome: names.append(outcome.name))
    assert names == NAMES


def test_examples_limits_the_number_of_draws():
    seen: list[int] = []
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def looked(plugin: Plugin, number: int) -> None:
        """It is looked at."""
        seen.append(number)

    Conformance("plug", listed(checks), Plugin(), examples=7).report()
    assert 1 <= len(seen) <= 7


# ------------------------------------------------------------------------------------- entry points


def test_an_unknown_plugin_field_or_kind_is_refused_with_the_nearest_name():
    with pytest.raises(MtlError, match="puzzling"):
        kit.pretext_checks("puzling")
    with pytest.raises(MtlError, match="grid"):
        kit.pretext_checks("puzzling", gird=3)
    with pytest.raises(MtlError, match="pretext"):
        kit.checks("pretexts", "puzzling")


def test_checks_are_callables_with_a_name_a_capability_and_a_doc():
    checks = {c.name: c for c in kit.pretext_checks("puzzling", examples=1, grid=2)}
    assert checks["accepts_a_single_sample"].capability == "single_sample"
    assert checks["views_are_images"].doc.startswith("There is at least one View")
    assert checks["views_are_images"]() is None


def test_a_callable_raises_the_whole_explanation():
    (check,) = [c for c in suite_of(Plugin(limit=17)) if c.name == "small"]
    with pytest.raises(AssertionError, match="smallest failing example: 17"):
        check()


class ToySubject(Subject[Any]):
    """The harness of the toy kind."""

    @property
    def limit(self) -> int:
        return self.component.limit

    @property
    def fault(self) -> str:
        return self.component.fault


@pytest.fixture
def run_test_of(monkeypatch):
    """Run the pytest test of a toy plugin; return its properties."""

    def run(checks: Group, **options: Any) -> dict[str, object]:
        lists = {"toy": (listed(checks), ToySubject)}
        monkeypatch.setattr(api, "lists", lambda: lists)
        properties: dict[str, object] = {}
        api.test_of("toy", Plugin, **options)(properties.__setitem__)
        return properties

    return run


def test_the_pytest_test_records_and_prints_the_checks_that_did_not_run(run_test_of, capsys):
    assert run_test_of(numbers()) == {"skipped optional": "it has no optional part"}
    assert "skipped optional: it has no optional part" in capsys.readouterr().out


def test_the_pytest_test_fails_with_the_explanations_of_all_failed_checks(run_test_of):
    with pytest.raises(pytest.fail.Exception) as failure:
        run_test_of(numbers(), limit=10, fault="dull")
    text = str(failure.value)
    assert text.startswith("toy 'plugin' fails 2 of 5 checks")
    for part in ("fails small", "numbers grow", "keep them small", "fails shines", "it is dull"):
        assert part in text
    assert "blocked even: needs small" in text
    assert "skipped optional" in text


def test_the_pytest_test_xfails_if_a_check_fails_as_expected(run_test_of):
    with pytest.raises(pytest.xfail.Exception, match="xfailed small: fixed in May"):
        run_test_of(numbers(), limit=10, xfail={"small": "fixed in May"})
    with pytest.raises(pytest.fail.Exception, match="fixed in May"):
        run_test_of(numbers(), xfail={"small": "fixed in May"})


def test_the_pytest_test_skips_if_no_check_runs(run_test_of):
    checks = Group()

    @checks.check("first", why="w", mend="m")
    def optional(plugin: Plugin) -> None:
        """It has an optional part."""
        raise Skip("it has no optional part")

    with pytest.raises(pytest.skip.Exception, match="no check ran:\nskipped optional"):
        run_test_of(checks)


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.slow
def test_one_line_under_pytest_is_one_test_of_all_checks(tmp_path):
    file = tmp_path / "test_mine.py"
    file.write_text(
        "import mtlcore.testing\n"
        'test_conformance = mtlcore.testing.pretext_conformance("puzzling", grid=2, examples=2)\n'
    )
    done = python("-m", "pytest", "-rP", "-p", "no:cacheprovider", str(file), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
    assert "skipped undo_restores_the_image" not in done.stdout
    assert "skipped coupled_loss_does_not_grow_with_the_batch: its head is not" in done.stdout


@pytest.mark.slow
def test_checks_still_work_under_python_o(tmp_path):
    """-O removes every `assert`. A broken plugin must fail all the same."""
    script = f"""
import sys
import mtlcore.testing as kit
from mtlcore.registry.catalog import catalog

known = catalog().copy()
broken = known.load_file({str(BROKEN)!r}).module().BROKEN
names = ("cites_its_origin", "rigid_labels_follow_the_image", "equal_logits_give_log_choices")
for name in names:
    outcome = kit.conformance("pretext", broken[name], known=known, examples=3).outcome(name)
    if outcome.status != "failed":
        sys.exit(f"{{name}} {{outcome.status}}")
"""
    done = python("-O", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def without_hypothesis(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `mtl` in a Python that cannot import Hypothesis."""
    script = (
        "import sys; sys.modules['hypothesis'] = None; import mtlcore, mtlcore.testing; "
        "from mtlcore.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return python("-c", script, *arguments, cwd=cwd)


@pytest.mark.slow
def test_without_hypothesis_a_check_is_one_message_with_what_to_install(tmp_path):
    done = without_hypothesis("plugins", "check", "puzzling", cwd=tmp_path)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "the conformance checks need Hypothesis" in " ".join(done.stderr.split())
    assert 'pip install "mtlcore[testing]"' in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_without_hypothesis_a_component_is_shown_with_its_capabilities(tmp_path):
    done = without_hypothesis("plugins", "show", "puzzling", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {capability["name"] for capability in json.loads(done.stdout)["capabilities"]}
    assert {"single_sample", "compiles", "stays_on_device"} <= names
