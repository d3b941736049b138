"""The committed protocols: validation metrics choose the runs, tables are those of the rows, a run
leaves one row, and rows with old key names stay readable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ("cpu", "cpu2", "controls", "digits", "imagenet")  # protocols with committed rows
sys.path.insert(0, str(ROOT / "benchmarks"))

import run as benchmarks_run  # noqa: E402
from hmtl import main, old_keys, protocols  # noqa: E402
from hmtl.old_keys import FORMAT, read_row, translated  # noqa: E402
from hmtl.protocols import load, workspace  # noqa: E402

from mtlcore import MtlError  # noqa: E402
from mtlcore.study.again import differences  # noqa: E402
from mtlcore.study.cells import equal_compute  # noqa: E402
from mtlcore.study.identity import fingerprint  # noqa: E402
from mtlcore.study.plan import Plan  # noqa: E402
from mtlcore.study.report import Tables, report  # noqa: E402
from mtlcore.study.results import Results, Run, key_of  # noqa: E402
from mtlcore.study.training import Trainee  # noqa: E402
from mtlcore.study.workspace import Workspace  # noqa: E402


def finished(
    run: Run, value: float, test: float | None = None, metric: str = "fer/accuracy"
) -> dict:
    """Return the row of a finished run with made-up metrics."""
    row = {
        "stage": run.stage,
        "arm": run.arm.name,
        "trial": run.trial,
        "seed": run.seed,
        "steps": run.steps,
        "set": list(run.overrides),
        "cpu_s": 1.0,
        "encoded": run.steps * run.arm.views,
        "device": "x86_64 AVX2",
        "validation": {metric: value},
    }
    if test is not None:
        row |= {"test": {metric: test}, "test_best": {metric: test + 0.01}}
    return row


def played(
    values: dict[str, float],
    test: Callable[[Run], float] = lambda run: 0.5 + 0.001 * run.seed,
    tuned: dict[str, int] | None = None,
    name: str = "cpu2",
) -> Plan:
    """Return the plan after all runs of a protocol, with made-up metrics.

    values: arm -> validation metric (default 0.4).
    test: the test metric of a run.
    tuned: arm -> the trial that is best in the tuning (default 0).
    """
    protocol = load(name)
    best_trials = tuned or {}
    rows: list[dict] = []
    while True:
        plan = Plan(protocol, Results(rows, protocol))
        runs_by_key = {run.key: run for run in plan.runs()}
        left = [run for run in runs_by_key.values() if plan.results.row(run) is None]
        if not left:
            return plan
        for run in left:
            if run.stage == "tune":
                is_best = run.trial == best_trials.get(run.arm.name, 0)
                value = 0.3 if is_best else 0.2
                rows.append(finished(run, value, metric=protocol.metric))
            else:
                value = values.get(run.arm.name, 0.4)
                rows.append(finished(run, value, test(run), protocol.metric_of(run.stage)))


def with_rows(plan: Plan, rows: list[dict]) -> Plan:
    """Return the same plan with other rows."""
    return Plan(plan.definition, Results(rows, plan.definition))


def table(plan: Plan) -> str:
    """Return the table of a plan, as `--table` writes it."""
    command = f"python benchmarks/run.py hmtl --protocol {plan.definition.name}"
    return str(report(plan, command))


def empty_plan(name: str) -> Plan:
    protocol = load(name)
    return Plan(protocol, Results([], protocol))


# ----------------------------------------------------------------------------------------- the plan


def test_only_the_tuning_is_known_before_there_are_results():
    plan = empty_plan("cpu2")
    assert {run.stage for run in plan.runs()} == {"tune"}
    assert all(len(arm.trials) == 3 for arm in plan.definition.arms.values())


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


def test_test_metrics_choose_nothing():
    # All different, so that no choice is a tie.
    values = {name: 0.4 + 0.002 * i for i, name in enumerate(load("cpu2").arms)}
    alike = played(values, test=lambda run: values.get(run.arm.name, 0.3))
    opposite = played(values, test=lambda run: 1 - values.get(run.arm.name, 0.3))
    assert [r.key for r in alike.runs()] == [r.key for r in opposite.runs()]


def test_every_protocol_reaches_its_headline_and_every_extra(subtests):
    for name in ["cpu", "cpu2", "digits", "affectnet", "imagenet"]:
        with subtests.test(name=name):
            plan = played({}, name=name)
            assert plan.headline()
            assert plan.pending_stages() == []
            assert all(plan.extra(extra.name) for extra in plan.definition.extras)


def test_a_protocol_that_screens_nothing_is_compared_at_equal_compute(subtests):
    """Its arms all run with its `seeds`; the first one decides which arm stands for SL."""
    for name in ["cifar3", "fer2", "gpu", "gpu_cifar"]:
        with subtests.test(name=name):
            plan = played({"sl": 0.3, "sl_long": 0.5}, name=name)
            assert [arm.name for arm in plan.role("@equal_compute")] == ["sl_long"]
            rows = [row for row in plan.results.rows if row["stage"] == "main"]
            hybrids = [arm.name for arm in plan.of_kind("hmtl")]
            assert {equal_compute(plan, rows, arm) for arm in hybrids} == {"sl_long"}
            assert plan.pending_stages() == []
            assert all(plan.extra(extra.name) for extra in plan.definition.extras)


def test_the_two_best_arms_and_their_controls_are_paired_at_every_seed():
    plan = played({"barlow_twins": 0.5, "rotation": 0.45})
    found = {(r.arm.name, r.seed) for r in plan.runs(["controls"])}
    # Barlow Twins has no targets to permute, so it has one control.
    arms = {
        "barlow_twins",
        "rotation",
        "barlow_twins+views_only",
        "rotation+views_only",
        "rotation+random_target",
    }
    assert found == {(arm, seed) for arm in arms for seed in (0, 1, 2)}


def test_an_extra_multiplies_the_steps_of_each_arm_by_its_factor():
    steps = {r.arm.name: r.steps for r in played({"sl_long": 0.46}).extra("plateau")}
    assert (steps["sl"], steps["sl_long"]) == (9000, 18000)


def test_a_control_differs_from_its_arm_by_one_key():
    arm = load("cpu2").arms["puzzling"]
    assert set(arm.control("views_only").set) - set(arm.set) == {
        'pretext.puzzling.control="views_only"'
    }


# ---------------------------------------------------------------------------------------- the table


def test_the_table_lists_what_was_not_run():
    plan = empty_plan("cpu2")
    first = next(plan.runs())
    text = table(with_rows(plan, [finished(first, 0.3)]))
    assert "Not run: tune-sl-1-0-1000" in text


def test_each_cell_of_an_arm_has_the_metric_of_its_column():
    # arm -> test metric at seed 0, and its increase from seed to seed
    lines = {
        "sl": (0.48, 0.01),
        "sl_long": (0.49, 0.005),
        "puzzling": (0.52, 0.02),
        "puzzling+views_only": (0.50, 0.0),
    }
    test: dict[str, list[float]] = {}
    for arm, (start, slope) in lines.items():
        test[arm] = [start + slope * seed for seed in range(8)]
    plan = played(
        {"puzzling": 0.5, "sl_long": 0.46},
        lambda run: test[run.arm.name][run.seed] if run.arm.name in test else 0.3,
    )

    def difference(other: str, seeds: int) -> str:
        x = 100 * (np.array(test["puzzling"][:seeds]) - test[other][:seeds])
        low, high = stats.t.interval(0.95, seeds - 1, loc=x.mean(), scale=stats.sem(x))
        return f"{x.mean():+.2f} [{low:+.2f}, {high:+.2f}]"

    mean, std = 100 * np.mean(test["puzzling"]), 100 * np.std(test["puzzling"], ddof=1)
    cells = [
        *("puzzling", "8", "3000", "6000", "50.00 +- 0.00"),
        *(f"{mean:.2f} +- {std:.2f}", f"{mean + 1:.2f} +- {std:.2f}"),
        *(difference("sl", 8), difference("sl_long", 8)),
        "AVX2: 0, 1, 2, 3, 4, 5, 6, 7 (1)",
    ]
    control = ["puzzling", "puzzling+views_only", "3", difference("puzzling+views_only", 3)]
    text = table(plan)
    assert f"| {' | '.join(cells)} |" in text
    assert f"| {' | '.join(control)} |" in text


def test_arms_close_to_the_best_are_compared_with_the_rivals_too_and_others_are_not():
    values = {
        "rotation": 0.5,
        "local_rotation": 0.48,
        "puzzling_both": 0.495,
        "inpainting_l1": 0.485,
        "fixmatch": 0.45,
    }
    test = {"puzzling_both": [0.54, 0.55, 0.57], "fixmatch": [0.5, 0.52, 0.52]}

    def test_metric(run: Run) -> float:
        has_value = run.seed < 3 and run.arm.name in test
        return test[run.arm.name][run.seed] if has_value else 0.3

    text = table(played(values, test_metric))
    # The differences are 4, 3 and 5 points.
    low, high = stats.t.interval(0.95, 2, loc=4.0, scale=1 / np.sqrt(3))
    assert f"| puzzling_both | fixmatch | 3 | +4.00 [{low:+.2f}, {high:+.2f}] |" in text
    compared = [line for line in text.splitlines() if " | fixmatch | " in line]
    arms = {line.split(" | ")[0].removeprefix("| ") for line in compared}
    assert arms == {"rotation", "local_rotation", "puzzling_both"}


def test_a_study_that_still_runs_corrects_for_claims_with_one_seed_so_far():
    """Else a verdict could change because other arms get runs."""
    noise = np.random.default_rng(0).normal(0, 0.002, 5)

    def measured(run: Run) -> float:
        return 0.5 + (0.02 + noise[run.seed] if run.arm.name == "puzzling" else 0.0)

    plan = played({}, measured, name="cifar3")
    early = [r for r in plan.results.rows if r["seed"] == 0 or r["arm"] in ("sl_long", "puzzling")]
    tables = Tables(with_rows(plan, early))
    [found] = tables.comparisons()
    assert (found.arm, found.baseline, found.difference.n) == ("puzzling", "sl_long", 5)
    assert len(tables.claims()) > 5
    assert found.p_holm == pytest.approx(found.p * len(tables.claims()))


def test_an_extra_is_compared_at_equal_compute_too_and_lists_seeds_by_device():
    plan = played({"sl_long": 0.46, "puzzling": 0.5, "puzzling+all": 0.6})
    metrics = {"sl": (0.48, 192), "sl_long": (0.50, 384), "puzzling+all": (0.51, 384)}
    rows = [row for row in plan.results.rows if row["stage"] != "plateau"]
    for run in plan.extra("plateau"):
        if run.arm.name in metrics:
            value, encoded = metrics[run.arm.name]
            device = "NVIDIA H200" if run.seed == 0 else "x86_64 AVX2"
            rows.append(finished(run, value, value) | {"encoded": encoded, "device": device})
    text = table(with_rows(plan, rows))
    devices = "H200: 0 (1); AVX2: 1, 2 (1)"
    assert f"| sl | 3 | 48.00 +- 0.00 |  |  | {devices} |" in text
    assert f"| sl_long | 3 | 50.00 +- 0.00 | +2.00 [+2.00, +2.00] |  | {devices} |" in text
    over_both = "+3.00 [+3.00, +3.00] | +1.00 [+1.00, +1.00]"
    assert f"| puzzling+all | 3 | 51.00 +- 0.00 | {over_both} | {devices} |" in text


def test_an_extra_without_its_baseline_has_no_differences():
    plan = played({"sl_long": 0.46, "puzzling_mix": 0.5})
    rows = [row for row in plan.results.rows if row["stage"] != "labels_5"]
    for run in plan.extra("labels_5"):
        if run.arm.name in ("sl_long", "puzzling_mix"):
            rows.append(finished(run, 0.5, 0.5))
    text = table(with_rows(plan, rows))
    assert "| puzzling_mix | 1 | 50.00 |  |  | AVX2: 0 (1) |" in text


def test_a_run_of_a_trial_that_was_not_chosen_in_the_end_is_listed_below_the_tables():
    plan = played({}, tuned={"puzzling": 2})
    screened = next(run for run in plan.runs(["screen"]) if run.arm.name == "puzzling")
    superseded = evolve(screened, trial=1)
    n = len(plan.results.rows)
    now = with_rows(plan, [*plan.results.rows, finished(superseded, 0.4, test=0.9)])
    assert now.run(superseded.key) == superseded  # `--again` still finds it

    listed = "Test metrics of trials that were not chosen in the end: main-puzzling-1-0-3000 90.00."
    text = table(now)
    assert listed in text
    # Nothing else changes but the totals.
    counts = f"{n} runs, {n:,} CPU s", f"{n + 1} runs, {n + 1:,} CPU s"
    assert text.replace(f"{listed}\n\n", "") == table(plan).replace(*counts)


# ------------------------------------------------------------------------------- identity of a run


def test_a_fingerprint_depends_on_every_part_of_a_run_and_on_no_folder(tmp_path):
    files = [tmp_path / f"{name}.toml" for name in "abc"]
    for file, text in zip(files, ('a = 1\nroot = "/x"\n', 'a = 1\nroot = "/y"\n', "a = 2\n")):
        file.write_text(text)
    one, moved, other = files
    assert fingerprint(one) == fingerprint(moved) != fingerprint(other)
    assert len({fingerprint(other), fingerprint(one, other), fingerprint(other, one)}) == 3


def test_a_commit_is_marked_if_files_differ_from_it(tmp_path, monkeypatch):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)

    monkeypatch.setattr(protocols, "ROOT", tmp_path)
    code = tmp_path / "code.py"
    result = tmp_path / "benchmarks" / "results" / "runs.jsonl"
    result.parent.mkdir(parents=True)
    code.write_text("a = 1\n")
    result.write_text("{}\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = protocols.commit()
    assert len(clean) == 12
    result.write_text("{}\n{}\n")
    assert protocols.commit() == clean
    code.write_text("a = 2\n")
    assert protocols.commit() == clean + "+"


# ------------------------------------------------------------------------------- rows with old keys


def committed_rows(name: str) -> list[dict]:
    """Return the rows of a protocol as committed."""
    text = committed_workspace(name).file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def committed_workspace(name: str) -> Workspace:
    file = ROOT / "benchmarks" / "results" / f"hmtl-{name}" / "runs.jsonl"
    return workspace(load(name), Path("data"), Path("work"), file)


def has_old_key(setting: str) -> bool:
    key = setting.partition("=")[0]
    return any(re.fullmatch(pattern, key) for pattern in old_keys.KEYS)


def test_committed_rows_match_their_protocol_after_translation(subtests):
    for name in COMMITTED:
        with subtests.test(name=name):
            here = committed_workspace(name)
            plan = here.plan()  # raises if the settings of a row differ from the protocol
            raw = {key_of(row): row for row in reversed(committed_rows(name))}
            assert len(plan.results.rows) == len(raw)
            changed = 0
            for row in plan.results.rows:
                before = raw[key_of(row)]
                changed += row["set"] != before["set"]
                assert not any(map(has_old_key, row["set"]))
                assert row | {"set": before["set"]} == before  # only the settings are translated
            assert changed > 0


def test_the_committed_table_is_the_table_of_the_committed_rows(subtests):
    for name in COMMITTED:
        with subtests.test(name=name):
            here = committed_workspace(name)
            committed = here.file.with_name("table.md").read_text(encoding="utf-8")
            assert table(here.plan()) + "\n" == committed


def test_each_old_key_of_the_committed_rows_becomes_a_key_of_today():
    settings = {s for name in COMMITTED for row in committed_rows(name) for s in row["set"]}
    old = sorted(filter(has_old_key, settings))
    assert {s.partition("=")[0] for s in old} >= {"train.lr", "recipes.strong.crop"}
    for setting in old:
        new = translated(setting)
        assert new != setting
        assert not has_old_key(new)
        assert old_keys.OLD_VALUE not in new


def test_an_old_key_is_translated_and_a_new_one_is_unchanged(subtests):
    for old, new in [
        ('train.optimizer="sgd"', 'optimizer.name="sgd"'),
        ("train.lr=3e-3", "optimizer.lr=3e-3"),
        ("train.weight_decay=0.1", "optimizer.weight_decay=0.1"),
        ("train.momentum=0.9", "optimizer.momentum=0.9"),
        ('train.schedule="step"', 'schedule.name="step"'),
        ("train.warmup=10", "schedule.warmup=10"),
        ("train.milestones=[0.5, 0.75]", "schedule.milestones=[0.5, 0.75]"),
        ("train.decay=0.1", "schedule.gamma=0.1"),
        ("recipes.validation.crop=0.85", "augment.validation.crop=0.85"),
        ("observer.probe.every=50", "callback.probe.every=50"),
        (f"pretext.puzzling.rows={old_keys.OLD_VALUE}", 'pretext.puzzling.samples="unlabeled"'),
        ('pretext.puzzling.rows="all"', 'pretext.puzzling.samples="all"'),
        ("input.store=96", "input.cache_size=96"),
    ]:
        with subtests.test(old=old, new=new):
            assert translated(old) == new
            assert translated(new) == new


def test_a_setting_without_an_old_key_is_unchanged(subtests):
    for setting in [
        "train.steps=600",
        "train.lrs=1",
        "input.storey=1",
        "pretext.a.b.rows=1",
        "seed=3",
        f"encoder.weights={old_keys.OLD_VALUE}",
        "no equals sign",
    ]:
        with subtests.test(setting=setting):
            assert translated(setting) == setting


def test_only_rows_of_the_old_format_are_translated():
    row = {"arm": "sl", "set": ["train.lr=1e-3", "seed=0"]}
    assert read_row(row) == {"arm": "sl", "set": ["optimizer.lr=1e-3", "seed=0"]}
    assert row["set"] == ["train.lr=1e-3", "seed=0"]  # the row itself stays as it is
    today = row | {"format": FORMAT}
    assert read_row(today) == today


def made_row(**changes: object) -> dict:
    """Return a row that `--again` can compare."""
    row = {
        "set": ["optimizer.lr=1e-3", "seed=0"],
        "encoded": 64,
        "validation": {"digit/accuracy": 0.5},
        "test": {"digit/accuracy": 0.4},
        "weights": "aa",
        "fingerprint": "bb",
        "commit": "one",
        "cpu_s": 1.0,
    }
    return row | changes


def test_again_compares_settings_metrics_and_weights_of_a_row_with_old_keys():
    now = made_row(format=FORMAT, fingerprint="other", commit="two", cpu_s=2.0)
    old = read_row(made_row(set=["train.lr=1e-3", "seed=0"]))
    assert differences(old, now) == []
    for key, value in {
        "set": ["train.lr=2e-3", "seed=0"],
        "encoded": 65,
        "validation": {"digit/accuracy": 0.51},
        "test": {"digit/accuracy": 0.41},
        "weights": "ab",
    }.items():
        old = read_row(made_row(**{"set": ["train.lr=1e-3", "seed=0"], key: value}))
        assert differences(old, now) == [key]


def test_again_does_not_compare_the_fingerprint_which_a_new_key_changes():
    before = made_row(format=FORMAT)
    assert differences(before, made_row(format=FORMAT, fingerprint="other")) == []
    assert differences(before, made_row(format=FORMAT, weights="ab")) == ["weights"]


# -------------------------------------------------------------------------------------- the command


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(MtlError, match=r"did you mean 'cpu'.*digits"):
        load("cpuu")


def command(*words: str | Path) -> int:
    """Run `python benchmarks/run.py hmtl ...` in this process.

    tests/test_protocols.py runs it as a real process.
    """
    return main.main([str(word) for word in words])


def test_a_dry_run_prints_the_estimated_compute_and_trains_nothing(tmp_path, capsys):
    words = ("--protocol", "cpu2", "--dry-run", "--stages", "tune", "--work", tmp_path / "work")
    assert command(*words) == 0
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
def test_an_unknown_name_is_reported_with_the_nearest_one(words, near, tmp_path, capsys):
    assert command("--protocol", "cpu2", "--dry-run", "--work", tmp_path, *words) == 2
    assert f"did you mean '{near}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--arms", "sl+views_only"), "no arm 'sl+views_only'"),  # SL has no pretext to switch off
        (("--arms", "sl", "--seeds", "99"), "no run of sl, seed 99"),
        (("--stages", "gender", "--arms", "fixmatch"), "no run of gender, fixmatch"),
    ],
)
def test_runs_that_the_protocol_does_not_have_are_reported(words, message, tmp_path, capsys):
    assert command("--protocol", "cpu2", "--work", tmp_path, *words) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_of_the_final_table_is_reported_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["run.py", "hmtl", "--protocol", "digits", "--table"])
    assert benchmarks_run.main() == 2
    assert 'not installed: matplotlib; pip install "mtlcore[bench]"' in capsys.readouterr().err


def test_the_stage_extras_means_every_extra(tmp_path, capsys, monkeypatch):
    plan = played({})
    file = tmp_path / "benchmarks" / "results" / "hmtl-cpu2" / "runs.jsonl"
    file.parent.mkdir(parents=True)
    rows = [row for row in plan.results.rows if row["stage"] in ("tune", "main")]
    file.write_text(as_lines(rows))
    monkeypatch.setattr(main, "ROOT", tmp_path)
    assert command("--protocol", "cpu2", "--dry-run", "--stages", "extras", "--work", tmp_path) == 0
    printed = capsys.readouterr().out
    assert all(f"  {extra.name}-sl-" in printed for extra in plan.definition.extras)
    assert "main-" not in printed


# ----------------------------------------------------------------------------------- rows and files


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def workspace_in(folder: Path) -> Workspace:
    """Return a workspace of the protocol `digits` in an empty folder."""
    return workspace(load("digits"), folder, folder / "work", folder / "runs.jsonl")


def test_a_run_leaves_one_row_with_its_compute(tmp_path):
    here = workspace_in(tmp_path)
    arm = here.definition.arms["sl_2views"]
    run = Run("main", arm, 0, 0, 2, set=("data.digits.limit=200",))
    Trainee(here).train_and_record(run)
    (line,) = (tmp_path / "runs.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["arm"], row["seed"], row["steps"]) == ("sl_2views", 0, 2)
    assert row["encoded"] == 2 * 2 * 32  # steps, views, batch size
    assert {"digit/accuracy", "digit/macro_f1"} <= row["test"].keys()
    assert row["cpu_s"] > 0
    assert row["format"] == FORMAT


def test_a_line_cut_off_by_a_crash_is_ignored_and_damages_no_other_line(tmp_path):
    here = workspace_in(tmp_path)
    sl = here.definition.arms["sl"]
    whole = json.dumps(finished(Run("tune", sl, 0, 0, 1), 0.5, 0.5))
    for end in range(1, len(whole)):
        here.file.write_text(whole[:end])
        assert here.rows() == []
    Trainee(here).train_and_record(Run("tune", sl, 0, 0, 1, set=("data.digits.limit=100",)))
    assert [row["arm"] for row in here.rows()] == ["sl"]


def test_a_half_trained_run_resumes_only_with_its_own_configuration(tmp_path):
    here = workspace_in(tmp_path)
    protocol = here.definition
    run = Run("tune", protocol.arms["sl"], 0, 0, 1)
    before, now = (
        evolve(here, definition=evolve(protocol, settings=(f"data.digits.limit={n}",)))
        for n in (60, 80)
    )
    row = Trainee(before).train_and_record(run)
    here.file.unlink()
    with pytest.raises(MtlError, match="was started with another configuration"):
        Trainee(now).train_and_record(run)
    assert not here.file.exists()
    assert (
        Trainee(before).train_and_record(run) == row
    )  # the run was finished; only its row was lost


def test_a_row_that_was_made_with_other_settings_is_reported(tmp_path, capsys):
    words = ("--protocol", "digits", "--work", tmp_path, "--arms", "sl", "--stages", "tune")
    assert command(*words, "--try", "data.digits.limit=60") == 0
    assert command(*words, "--try", "data.digits.limit=80") == 2
    error = capsys.readouterr().err
    assert "tune-sl-0-0-2 was made with" in error
    assert "limit=80" in error


def test_a_row_of_a_trial_that_the_protocol_no_longer_has_is_reported(tmp_path):
    here = workspace_in(tmp_path)
    run = Run("tune", here.definition.arms["sl"], 0, 0, 1)
    here.file.write_text(as_lines([finished(run, 0.5) | {"trial": 9}]))
    with pytest.raises(MtlError, match=r"tune-sl-9-0-1: .*the study has \d trials of sl"):
        here.plan()


def test_a_run_that_is_trained_again_is_the_same_to_the_bit(tmp_path, capsys):
    words = ("--protocol", "digits", "--work", tmp_path)
    small = ("--try", "data.digits.limit=60")
    file = tmp_path / "runs.jsonl"
    assert command(*words, "--arms", "sl", "--stages", "tune", *small) == 0
    assert command(*words, "--again", "tune-sl-0-0-2", *small) == 0
    assert "the same, bit for bit" in capsys.readouterr().out

    rows = [json.loads(line) for line in file.read_text().splitlines()]
    first, second = rows
    assert first["weights"] != second["weights"]  # another learning rate
    first["weights"] = second["weights"]
    file.write_text(as_lines(rows))
    assert command(*words, "--again", "tune-sl-0-0-2", *small) == 1
    printed = capsys.readouterr().out
    assert "NOT the same" in printed
    assert second["weights"] in printed


@pytest.mark.slow
def test_a_row_with_old_keys_is_trained_again_and_both_fingerprints_are_printed(tmp_path, capsys):
    words = ("--protocol", "digits", "--work", tmp_path)
    small = ("--try", "data.digits.limit=60")
    file = tmp_path / "runs.jsonl"
    assert command(*words, "--arms", "sl", "--stages", "tune", *small) == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        del row["format"]
        row["set"] = [s.replace("optimizer.lr", "train.lr") for s in row["set"]]
        row["fingerprint"] = "0123456789abcdef"
    file.write_text(as_lines(rows))
    capsys.readouterr()
    assert command(*words, "--again", "tune-sl-0-0-2", *small) == 0
    printed = capsys.readouterr().out
    assert "the same, bit for bit" in printed
    assert "fingerprint 0123456789abcdef / " in printed
