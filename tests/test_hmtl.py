"""The evidence runner: what is planned follows from validation figures alone; intervals agree with scipy; a run leaves one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import run as door_of_all  # noqa: E402
from hmtl import main, runs  # noqa: E402
from hmtl.plan import Plan, Results, Run  # noqa: E402
from hmtl.protocol import load  # noqa: E402
from hmtl.report import paired, spread, table  # noqa: E402
from hmtl.runs import Workspace, fingerprint  # noqa: E402

from mtlcore import MtlError  # noqa: E402


def finished(
    run: Run, value: float, test: float | None = None, metric: str = "fer/accuracy"
) -> dict:
    row = {
        "stage": run.stage,
        "arm": run.arm.name,
        "trial": run.trial,
        "seed": run.seed,
        "steps": run.steps,
    }
    cost = {
        "set": list(run.overrides),
        "cpu_s": 1.0,
        "encoded": run.steps * run.arm.views,
        "device": "x86_64 AVX2",
    }
    row |= cost | {"validation": {metric: value}}
    return row | (
        {"test": {metric: test}, "test_best": {metric: test + 0.01}} if test is not None else {}
    )


def played(
    values: dict[str, float],
    test: Callable[[Run], float] = lambda run: 0.5 + 0.001 * run.seed,
    tuned: dict[str, int] | None = None,
    name: str = "cpu2",
) -> Plan:
    """Every run that the protocol asks for, with made-up figures by arm; the tuning prefers the trial that is told."""
    protocol, rows = load(name), []
    while True:
        plan = Plan(protocol, Results(rows, protocol.metric))
        left = [r for r in {r.key: r for r in plan.runs()}.values() if plan.results.row(r) is None]
        if not left:
            return plan
        for run in left:
            base = values.get(run.arm.name, 0.4)
            if run.stage == "tune":
                value = 0.2 + 0.1 * (run.trial == (tuned or {}).get(run.arm.name, 0))
                rows.append(finished(run, value, metric=protocol.metric))
            else:
                rows.append(finished(run, base, test(run), protocol.metric_of(run.stage)))


def test_nothing_but_the_tuning_can_be_named_before_there_are_results():
    protocol = load("cpu2")
    runs = list(Plan(protocol, Results([], protocol.metric)).runs())
    assert {run.stage for run in runs} == {"tune"}
    assert all(len(arm.trials) == 3 for arm in protocol.arms.values())


def test_the_better_trial_on_validation_is_used():
    plan = played({}, tuned={"puzzling": 1})
    assert plan.trial(plan.arm("puzzling")) == 1
    assert plan.trial(plan.arm("sl_long")) == plan.trial(plan.arm("sl")) == 0


def test_the_headline_arms_are_chosen_on_validation():
    plan = played(
        {
            "sl_long": 0.46,
            "puzzling_mix": 0.47,
            "rotation": 0.48,
            "puzzling_mix+all": 0.52,
            "fixmatch": 0.41,
        }
    )
    assert [arm.name for arm in plan.headline()] == [
        "sl",
        "sl_long",
        "puzzling_mix",
        "rotation",
        "puzzling_mix+all",
        "fixmatch",
    ]
    seeds = {r.seed for r in plan.runs(["headline"]) if r.arm.name == "puzzling_mix+all"}
    assert seeds == set(range(8))


def test_test_figures_choose_nothing():
    values = {name: 0.4 + 0.002 * i for i, name in enumerate(load("cpu2").arms)}  # no two alike
    alike = played(values, test=lambda run: values.get(run.arm.name, 0.3))
    opposite = played(values, test=lambda run: 1 - values.get(run.arm.name, 0.3))
    assert [r.key for r in alike.runs()] == [r.key for r in opposite.runs()]


@pytest.mark.parametrize("name", ["cpu", "cpu2", "digits", "gpu", "affectnet", "imagenet"])
def test_every_protocol_comes_to_its_headline_and_to_every_extra(name):
    plan = played({}, name=name)
    assert plan.headline()
    assert plan.unnamed() == []
    assert all(plan.extra(extra.name) for extra in plan.protocol.extras)


def test_the_leaders_and_their_controls_are_paired_at_every_seed():
    plan = played({"barlow_twins": 0.5, "rotation": 0.45})
    found = {(r.arm.name, r.seed) for r in plan.runs(["controls"])}
    arms = {
        "barlow_twins",
        "rotation",
        "barlow_twins+views_only",
        "rotation+views_only",
        "rotation+random_target",
    }
    assert found == {
        (arm, seed) for arm in arms for seed in (0, 1, 2)
    }  # Barlow Twins has no answers to permute


def test_an_extra_keeps_an_arms_own_share_of_the_steps():
    steps = {r.arm.name: r.steps for r in played({"sl_long": 0.46}).extra("plateau")}
    assert (steps["sl"], steps["sl_long"]) == (9000, 18000)


def test_a_control_differs_from_its_arm_by_one_key():
    arm = load("cpu2").arms["puzzling"]
    assert set(arm.control("views_only").set) - set(arm.set) == {
        'pretext.puzzling.control="views_only"'
    }


@pytest.mark.parametrize("n", [2, 5, 8])
def test_the_interval_is_the_t_interval(n):
    x = np.random.default_rng(n).normal(50, 2, n)
    low, high = stats.t.interval(0.95, n - 1, loc=x.mean(), scale=stats.sem(x))
    found = spread(list(x))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_pairs_share_a_seed():
    found = paired({0: 51.0, 1: 52.0, 7: 99.0}, {0: 50.0, 1: 50.0, 2: 0.0})
    assert found is not None
    assert (found.n, found.mean) == (2, pytest.approx(1.5))


def test_the_table_tells_what_was_not_run():
    protocol = load("cpu2")
    some = next(iter(Plan(protocol, Results([], protocol.metric)).runs()))
    said = table(Plan(protocol, Results([finished(some, 0.3)], protocol.metric)))
    assert "Not run: tune-sl-1-0-1000" in said


def test_each_cell_of_an_arm_is_the_figure_that_its_column_names():
    figures = {
        "sl": (0.48, 0.01),
        "sl_long": (0.49, 0.005),
        "puzzling": (0.52, 0.02),
        "puzzling+views_only": (0.50, 0.0),
    }
    test = {
        arm: [start + slope * seed for seed in range(8)] for arm, (start, slope) in figures.items()
    }
    plan = played(
        {"puzzling": 0.5, "sl_long": 0.46},
        lambda run: test[run.arm.name][run.seed] if run.arm.name in test else 0.3,
    )

    def over(other: str, seeds: int) -> str:
        x = 100 * (np.array(test["puzzling"][:seeds]) - test[other][:seeds])
        low, high = stats.t.interval(0.95, seeds - 1, loc=x.mean(), scale=stats.sem(x))
        return f"{x.mean():+.2f} [{low:+.2f}, {high:+.2f}]"

    said = table(plan)
    mean, std = 100 * np.mean(test["puzzling"]), 100 * np.std(test["puzzling"], ddof=1)
    splits = f"50.00 +- 0.00 | {mean:.2f} +- {std:.2f} | {mean + 1:.2f} +- {std:.2f}"
    differences = f"{over('sl', 8)} | {over('sl_long', 8)}"
    assert (
        f"| puzzling | 8 | 3000 | 6000 | {splits} | {differences} | AVX2: 0, 1, 2, 3, 4, 5, 6, 7 (1) |"
        in said
    )
    assert f"| puzzling | puzzling+views_only | 3 | {over('puzzling+views_only', 3)} |" in said


def test_what_is_close_to_the_best_stands_against_the_rivals_too_and_what_is_not_does_not():
    values = {
        "rotation": 0.5,
        "local_rotation": 0.48,
        "puzzling_both": 0.495,
        "inpainting_l1": 0.485,
        "fixmatch": 0.45,
    }
    figures = {"puzzling_both": [0.54, 0.55, 0.57], "fixmatch": [0.5, 0.52, 0.52]}
    said = table(
        played(
            values,
            lambda run: (
                figures[run.arm.name][run.seed] if run.seed < 3 and run.arm.name in figures else 0.3
            ),
        )
    )
    low, high = stats.t.interval(
        0.95, 2, loc=4.0, scale=1 / np.sqrt(3)
    )  # of the differences 4, 3, 5
    assert f"| puzzling_both | fixmatch | 3 | +4.00 [{low:+.2f}, {high:+.2f}] |" in said
    over = {
        line.split(" | ")[0].removeprefix("| ")
        for line in said.splitlines()
        if " | fixmatch | " in line
    }
    assert over == {"rotation", "local_rotation", "puzzling_both"}


def test_an_extra_stands_against_equal_compute_too_and_each_row_says_its_devices():
    plan = played({"sl_long": 0.46, "puzzling": 0.5, "puzzling+all": 0.6})
    figures = {"sl": (0.48, 192), "sl_long": (0.50, 384), "puzzling+all": (0.51, 384)}
    rows = [r for r in plan.results.rows if r["stage"] != "plateau"]
    for run in plan.extra("plateau"):
        if run.arm.name in figures:
            value, encoded = figures[run.arm.name]
            device = "NVIDIA H200" if run.seed == 0 else "x86_64 AVX2"
            rows.append(finished(run, value, value) | {"encoded": encoded, "device": device})
    said = table(Plan(plan.protocol, Results(rows, plan.results.metric)))
    where = "H200: 0 (1); AVX2: 1, 2 (1)"
    assert f"| sl | 3 | 48.00 +- 0.00 |  |  | {where} |" in said
    assert f"| sl_long | 3 | 50.00 +- 0.00 | +2.00 [+2.00, +2.00] |  | {where} |" in said
    assert (
        f"| puzzling+all | 3 | 51.00 +- 0.00 | +3.00 [+3.00, +3.00] | +1.00 [+1.00, +1.00] | {where} |"
        in said
    )


def test_an_extra_without_its_baseline_yet_is_set_against_nothing():
    plan = played({"sl_long": 0.46, "puzzling_mix": 0.5})
    rows = [r for r in plan.results.rows if r["stage"] != "labels_5"]
    for run in plan.extra("labels_5"):
        if run.arm.name in ("sl_long", "puzzling_mix"):
            rows.append(finished(run, 0.5, 0.5))
    said = table(Plan(plan.protocol, Results(rows, plan.results.metric)))
    assert "| puzzling_mix | 1 | 50.00 |  |  | AVX2: 0 (1) |" in said


def test_a_run_of_a_trial_that_lost_later_stands_beside_the_table_and_not_in_it():
    plan = played({}, tuned={"puzzling": 2})
    before = evolve(next(r for r in plan.runs(["screen"]) if r.arm.name == "puzzling"), trial=1)
    rows = [*plan.results.rows, finished(before, 0.4, test=0.9)]
    now = Plan(plan.protocol, Results(rows, plan.results.metric))
    assert now.run(before.key) == before  # to be made again by its name
    said = table(now)
    assert said.replace(
        "On test, of trials that were not chosen in the end: main-puzzling-1-0-3000 90.00.\n\n", ""
    ) == (
        table(plan).replace(
            f"{len(rows) - 1} runs, {len(rows) - 1:,} CPU s",
            f"{len(rows)} runs, {len(rows):,} CPU s",
        )
    )


def test_a_fingerprint_hangs_on_every_part_of_a_run_and_on_no_folder(tmp_path):
    files = [tmp_path / f"{name}.toml" for name in "abc"]
    for file, text in zip(files, ('a = 1\nroot = "/x"\n', 'a = 1\nroot = "/y"\n', "a = 2\n")):
        file.write_text(text)
    one, moved, other = files
    assert fingerprint(one) == fingerprint(moved) != fingerprint(other)
    assert len({fingerprint(other), fingerprint(one, other), fingerprint(other, one)}) == 3


def test_a_commit_says_where_the_code_differs_from_it(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True
        )

    monkeypatch.setattr(runs, "ROOT", tmp_path)
    code, result = tmp_path / "code.py", tmp_path / "benchmarks" / "results" / "runs.jsonl"
    result.parent.mkdir(parents=True)
    code.write_text("a = 1\n")
    result.write_text("{}\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = runs.commit()
    assert len(clean) == 12
    result.write_text("{}\n{}\n")
    assert runs.commit() == clean
    code.write_text("a = 2\n")
    assert runs.commit() == clean + "+"


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(MtlError, match=r"did you mean 'cpu'.*digits"):
        load("cpuu")


def command(*words: str | Path) -> int:
    """`python benchmarks/run.py hmtl ...`, in this process: tests/test_protocols.py runs it as a real one."""
    return main.main([str(word) for word in words])


def test_a_dry_run_tells_the_cost_and_trains_nothing(tmp_path, capsys):
    assert (
        command("--protocol", "cpu2", "--dry-run", "--stages", "tune", "--work", tmp_path / "work")
        == 0
    )
    assert "CPU seconds estimated" in capsys.readouterr().out
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("--stages", "scren"), "screen"),
        (("--arms", "puzling"), "puzzling"),
        (("--arms", "puzzling+views_onli"), "puzzling+views_only"),
        (("--again", "tune-sl-9"), "tune-sl"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_its_neighbor(words, near, tmp_path, capsys):
    assert command("--protocol", "cpu2", "--dry-run", "--work", tmp_path, *words) == 2
    said = capsys.readouterr().err
    assert f"did you mean '{near}" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--arms", "sl+views_only"), "no arm 'sl+views_only'"),  # it has no pretext to switch off
        (("--arms", "sl", "--seeds", "99"), "no run of sl, seed 99"),
        (("--stages", "gender", "--arms", "fixmatch"), "no run of gender, fixmatch"),
    ],
)
def test_what_the_protocol_does_not_ask_for_is_told_and_not_passed_over(
    words, told, tmp_path, capsys
):
    assert command("--protocol", "cpu2", "--work", tmp_path, *words) == 2
    assert told in capsys.readouterr().err


def test_what_is_needed_only_in_the_end_is_asked_for_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["run.py", "hmtl", "--protocol", "digits", "--table"])
    assert door_of_all.main() == 2
    assert 'not installed: matplotlib; pip install "mtlcore[bench]"' in capsys.readouterr().err


def test_extras_stand_for_each_of_them(tmp_path, capsys, monkeypatch):
    plan = played({})
    file = tmp_path / "benchmarks" / "results" / "hmtl-cpu2" / "runs.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(
        "".join(json.dumps(r) + "\n" for r in plan.results.rows if r["stage"] in ("tune", "main"))
    )
    monkeypatch.setattr(main, "ROOT", tmp_path)
    assert command("--protocol", "cpu2", "--dry-run", "--stages", "extras", "--work", tmp_path) == 0
    named = capsys.readouterr().out
    assert all(f"  {extra.name}-sl-" in named for extra in plan.protocol.extras)
    assert "main-" not in named


def test_a_run_leaves_one_line_with_what_it_cost(tmp_path):
    protocol = load("digits")
    workspace = Workspace(protocol, tmp_path, tmp_path / "work", tmp_path / "runs.jsonl")
    run = Run("main", protocol.arms["sl_2views"], 0, 0, 2, set=("data.digits.limit=200",))
    workspace.do(run)
    (line,) = (tmp_path / "runs.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["arm"], row["seed"], row["steps"], row["encoded"]) == (
        "sl_2views",
        0,
        2,
        2 * 2 * 32,
    )
    assert {"digit/accuracy", "digit/macro_f1"} <= row["test"].keys()
    assert row["cpu_s"] > 0


def test_a_line_that_a_crash_has_cut_off_is_no_run_and_spoils_no_other(tmp_path):
    protocol = load("digits")
    workspace = Workspace(protocol, tmp_path, tmp_path / "work", tmp_path / "runs.jsonl")
    whole = json.dumps(finished(Run("tune", protocol.arms["sl"], 0, 0, 1), 0.5, 0.5))
    for end in range(1, len(whole)):
        (tmp_path / "runs.jsonl").write_text(whole[:end])
        assert workspace.rows() == []
    workspace.do(Run("tune", protocol.arms["sl"], 0, 0, 1, set=("data.digits.limit=100",)))
    assert [row["arm"] for row in workspace.rows()] == ["sl"]


def test_a_half_trained_run_goes_on_only_with_its_own_configuration(tmp_path):
    protocol = load("digits")
    workspace = Workspace(protocol, tmp_path, tmp_path / "work", tmp_path / "runs.jsonl")
    sl = Run("tune", protocol.arms["sl"], 0, 0, 1)
    before, now = (
        evolve(workspace, protocol=evolve(protocol, settings=(f"data.digits.limit={n}",)))
        for n in (60, 80)
    )
    row = before.do(sl)
    workspace.file.unlink()
    with pytest.raises(MtlError, match="begun with another configuration"):
        now.do(sl)
    assert not workspace.file.exists()
    assert before.do(sl) == row  # it was finished: its line alone had been lost


def test_a_line_that_was_made_with_other_settings_is_told(tmp_path, capsys):
    words = ("--protocol", "digits", "--work", tmp_path, "--arms", "sl", "--stages", "tune")
    assert command(*words, "--try", "data.digits.limit=60") == 0
    assert command(*words, "--try", "data.digits.limit=80") == 2
    said = capsys.readouterr().err
    assert "tune-sl-0-0-2 was made with" in said
    assert "limit=80" in said


def test_a_line_of_a_trial_that_the_protocol_no_longer_has_is_told(tmp_path):
    protocol = load("digits")
    row = finished(Run("tune", protocol.arms["sl"], 0, 0, 1), 0.5) | {"trial": 9}
    workspace = Workspace(protocol, tmp_path, tmp_path / "work", tmp_path / "runs.jsonl")
    workspace.file.write_text(json.dumps(row) + "\n")
    with pytest.raises(MtlError, match=r"tune-sl-9-0-1: the protocol gives sl \d trials"):
        workspace.plan()


def test_a_run_that_is_made_again_is_the_same_to_the_bit_and_a_changed_line_is_told(
    tmp_path, capsys
):
    words = ("--protocol", "digits", "--work", tmp_path)
    small = ("--try", "data.digits.limit=60")
    assert command(*words, "--arms", "sl", "--stages", "tune", *small) == 0
    assert command(*words, "--again", "tune-sl-0-0-2", *small) == 0
    assert "the same, bit for bit" in capsys.readouterr().out

    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert lines[0]["weights"] != lines[1]["weights"]  # another learning rate
    lines[0]["weights"] = lines[1]["weights"]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert command(*words, "--again", "tune-sl-0-0-2", *small) == 1
    said = capsys.readouterr().out
    assert "NOT the same" in said
    assert lines[0]["weights"] in said
