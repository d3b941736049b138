"""A study: what its file may say, what runs, what counts, and what its tables say; on tiny runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve
from study_toys import PLUGIN, STUDY, dots_run

import mtlcore
from mtlcore import MtlError
from mtlcore.study.again import differences
from mtlcore.study.launchers.one import numbered
from mtlcore.study.new import new_study
from mtlcore.study.plan import Plan
from mtlcore.study.read import read
from mtlcore.study.report import Tables, report
from mtlcore.study.results import Results
from mtlcore.study.study import SecondReadWarning, Study
from mtlcore.study.training import rounded

CONFIG = PLUGIN + dots_run(steps=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.toml").write_text(CONFIG)
    return tmp_path


def written(folder: Path, text: str = STUDY) -> Path:
    file = folder / "study.toml"
    file.write_text(text)
    return file


def rows_of(study: Study) -> list[dict]:
    return [json.loads(x) for x in (study.folder / "runs.jsonl").read_text().splitlines()]


def played(
    text: str, values: dict[str, list[float]], folder: Path, compute: float = 2, **fields
) -> Plan:
    """The plan of a study whose runs ended with made-up validation metrics. values: by seed.

    compute: images that an arm with puzzling encodes for one of the others.
    """
    study = Study.load(written(folder, text))
    rows: list[dict] = []
    while True:
        plan = Plan(study.definition, Results(rows, study.definition))
        left = plan.left()
        if not left:
            return plan
        for run in left:
            value = values.get(run.arm.name, [0.5] * 9)[run.seed]
            encoded = run.steps * 100 * (compute if "puzzling" in run.arm.name else 1)
            row = {"stage": run.stage, "arm": run.arm.name, "trial": run.trial, "seed": run.seed}
            row |= {"steps": run.steps, "encoded": encoded, "cpu_s": 1.0, "device": "cpu"}
            row |= {"metric": "quarter/accuracy", "higher_is_better": True}
            rows.append({**row, "validation": {"quarter/accuracy": value}, **fields})


# ------------------------------------------------------------------------------------- the file


def test_each_mistake_in_a_study_is_named_with_its_place_and_the_nearest_name(folder, subtests):
    for change, message in [
        (("seeds =", "seed ="), r"study.toml:\n  seed: unknown key; did you mean 'seeds'"),
        (("set =", "sets ="), r"arms.puzzling.sets: unknown key; did you mean 'set'"),
        (("seeds = [0, 1]", "seeds = [0, 1.5]"), r"seeds\[1\] = 1.5: expected a whole number"),
        (("seeds = [0, 1]", "seeds = [0, 0]"), r"a seed appears twice"),
        (("seeds = [0, 1]", ""), r"seeds is missing"),
        (("[arms.supervised]", "[arms.'a b']"), r"arms.a b: expected a word"),
        (("[arms.supervised]", ""), r"two arms or more"),
        (("seeds =", 'baseline = "super"\nseeds ='), r"no such arm; did you mean 'supervised'"),
        (("seeds = [0, 1]", "equal_compute = true\nheadline_seeds = [0]"), r"needs `seeds`"),
        (("grid=2", "girid=2"), r"arms.puzzling: pretext.puzzling.girid.*did you mean 'grid'"),
        (("base.toml", "bases.toml"), r"bases.toml can't be read"),
        (("seeds =", 'controls = ["views"]\nseeds ='), r"controls\[0\] = 'views': expected one of"),
        (("set =", 'like = "puzzling"\nset ='), r"arms.puzzling has no trials of its own"),
        (("config =", 'extends = "study"\nconfig ='), r"that does not extend this one"),
        (("config =", 'extends = "none"\nconfig ='), r"extends = 'none': there is no"),
        (("grid=2", 'grid=2", "seed=3'), r"arms.puzzling: seed=3: `seeds` sets the seeds"),
        (("seeds =", 'metric = "quater/accuracy"\nseeds ='), r"did you mean 'quarter'"),
        (
            ("[0, 1]", "[0, 1]\n[[extras]]\nname='a/b'\narms=[]\nseeds=[]"),
            r"extras.a/b: expected a w",
        ),
    ]:
        with subtests.test(message=message), pytest.raises(MtlError, match=message):
            Study.load(written(folder, STUDY.replace(*change)))
    assert not (folder / "study").exists()


def test_arms_that_differ_in_what_they_share_are_an_error_unless_the_study_says_so(
    folder, subtests
):
    for setting, what in [
        ("encoder.width=4", "encoder"),
        ("data.dots.labels=0.5", "data"),
        ("input.size=32", "input"),
        ("train.steps=9", "steps"),
    ]:
        with subtests.test(what=what):
            text = STUDY.replace("pretext.puzzling.grid=2", setting)
            key = setting.partition("=")[0]
            with pytest.raises(MtlError, match=rf'arms.puzzling: {key}: .*differ = \["{what}"\]'):
                Study.load(written(folder, text))
            assert Study.load(written(folder, f'differ = ["{what}"]\n{text}'))


def test_an_experiment_or_a_folder_in_place_of_a_study_is_an_error(folder):
    with pytest.raises(MtlError, match=r"is an experiment, not a study: `mtl study new"):
        Study.load(folder / "base.toml")
    with pytest.raises(MtlError, match=r"is a folder: expected a study"):
        Study.load(folder)


def test_files_of_others_in_the_folder_of_a_study_are_not_replaced(folder):
    study = Study.load(written(folder, STUDY), folder / "mine")
    (folder / "mine").mkdir()
    for name in ("table.md", "study.toml"):
        (folder / "mine" / name).write_text("my notes")
    for write in (study.table, lambda: numbered(study), lambda: study.train(say=str)):
        with pytest.raises(MtlError, match=r"its study\.toml, table\.md would be replaced: choose"):
            write()
    assert (folder / "mine" / "table.md").read_text() == "my notes"
    assert len(list((folder / "mine").iterdir())) == 2


def test_an_arm_that_sets_its_steps_trains_that_many(folder):
    text = STUDY.replace("grid=2", 'grid=2", "train.steps=7')
    plan = played(f'differ = ["steps"]\n{text}', {}, folder)
    assert {(run.arm.name, run.steps) for run in plan.runs()} == {
        ("supervised", 3),
        ("puzzling", 7),
    }
    with pytest.raises(MtlError, match=r"`steps` sets the steps of all arms: use `factor`"):
        Study.load(written(folder, f'steps = 3\ndiffer = ["steps"]\n{text}'))


def test_an_arm_may_not_set_epochs_and_its_pretraining_no_seed_or_steps(folder, subtests):
    for setting, hint in [
        ("train.steps=40", "`share` sets the steps of the pre-training"),
        ("train.epochs=2", "`share` sets the steps of the pre-training"),
        ("seed=7", "`seeds` sets the seeds of all arms"),
    ]:
        with subtests.test(setting=setting):
            first = f'[arms.puzzling.pretraining]\nshare = 0.4\nset = ["{setting}"]\n'
            with pytest.raises(MtlError, match=rf"puzzling.pretraining.set: {setting}: {hint}"):
                Study.load(written(folder, f"{STUDY}{first}"))
    epochs = STUDY.replace("grid=2", 'grid=2", "train.epochs=7')
    with pytest.raises(MtlError, match=r"train.epochs=7: arms are compared at equal steps"):
        Study.load(written(folder, f'differ = ["steps"]\n{epochs}'))


def test_settings_of_all_runs_may_not_set_the_seed_or_the_steps(folder, subtests):
    for setting, hint in [
        ("train.steps=500", r"set `steps` \(and `tune_steps` for trials\) in the study"),
        ("train.epochs = 2", r"set `steps` \(and `tune_steps` for trials\) in the study"),
        ("seed=5", r"`seeds` sets the seeds of all arms"),
    ]:
        with subtests.test(setting=setting):
            text = f'settings = ["input.batch_size=4", "{setting}"]\n{STUDY}'
            with pytest.raises(MtlError, match=f"settings: {setting}: {hint}"):
                Study.load(written(folder, text))


def test_an_extra_may_not_set_the_seed_or_the_steps(folder, subtests):
    for setting, hint in [
        ("train.steps=40", "set `factor` of the extra: it multiplies the steps of the study"),
        ("train.epochs=2", "set `factor` of the extra"),
        ("seed=7", "set `seeds` of the extra"),
    ]:
        with subtests.test(setting=setting):
            extra = '[[extras]]\nname = "longer"\narms = ["supervised"]\nseeds = [0]\n'
            text = f'{STUDY}{extra}set = ["{setting}"]\n'
            with pytest.raises(MtlError, match=f"extras.longer.set: {setting}: {hint}"):
                Study.load(written(folder, text))


def test_a_damaged_row_or_reading_of_the_test_split_is_named_with_its_line(folder, subtests):
    study = Study.load(written(folder))
    rows = study.folder / "runs.jsonl"
    rows.parent.mkdir()
    for line, message in [
        ("3", "line 1: expected a row"),
        ("{}", "line 1: the row has no 'stage'"),
    ]:
        with subtests.test(line=line):
            rows.write_text(f"{line}\n")
            with pytest.raises(MtlError, match=message):
                study.plan()
    rows.write_bytes(b'{"stage": "ma\xff')  # cut off by a crash
    assert len(study.plan().left) == 4


def test_the_same_arm_twice_is_an_error(folder):
    text = STUDY.replace("pretext.puzzling.grid=2", "pretext.puzzling.weight=0")
    with pytest.raises(MtlError, match=r"puzzling is the same experiment as arms.supervised"):
        Study.load(written(folder, text))


# --------------------------------------------------------------------------------------- the plan


def test_every_arm_its_controls_and_the_baseline_at_equal_compute_run_with_every_seed(folder):
    text = f'controls = ["views_only"]\nequal_compute = true\n{STUDY}'
    plan = played(text, {}, folder)
    runs = {(run.arm.name, run.steps, run.seed) for run in plan.runs()}
    arms = {("supervised", 3), ("puzzling", 3), ("puzzling+views_only", 3), ("supervised+x2", 6)}
    assert runs == {(*arm, seed) for arm in arms for seed in (0, 1)}
    control = plan.arm("puzzling+views_only")
    assert control.set == ("pretext.puzzling.grid=2", 'pretext.puzzling.control="views_only"')


def test_the_baseline_at_equal_compute_has_the_ratio_of_the_images_in_its_name(folder, subtests):
    for ratio, name, steps in [
        (1.2499, None, 0),
        (1.25, "supervised+x1.25", 125),
        (1.26, "supervised+x1.26", 126),
        (1.5, "supervised+x1.5", 150),
        (1.98, "supervised+x2", 200),
        (2.04, "supervised+x2", 200),
    ]:
        with subtests.test(ratio=ratio):
            text = f"equal_compute = true\nsteps = 100\n{STUDY}"
            plan = played(text, {}, folder, compute=ratio)
            longer = [(name, steps)] if name else []
            assert [(arm.name, round(100 * arm.factor)) for arm in plan.longer()] == longer
            rows = report(plan, "command").arms.rows
            (puzzling,) = [row for row in rows if row[0] == "puzzling"]
            # The cell of the difference at equal compute.
            assert puzzling[6] == "+0.00 [+0.00, +0.00]"


def test_the_lower_value_of_an_error_metric_chooses_the_trial(folder):
    trials = 'trials = [["optimizer.lr=0.1"], ["optimizer.lr=0.2"]]\n'
    text = STUDY.replace("[arms.puzzling]\n", f"[arms.puzzling]\n{trials}")
    better = played(text, {}, folder)
    rows = [dict(row) for row in better.results.rows]
    for row in rows:
        row["validation"] = {"quarter/accuracy": 0.1 * row["trial"]}
        row["higher_is_better"] = False
    lower = Plan(better.definition, Results(rows, better.definition))
    assert lower.trial(lower.arm("puzzling")) == 0
    higher = [row | {"higher_is_better": True} for row in rows]
    chosen = Plan(better.definition, Results(higher, better.definition))
    assert chosen.trial(chosen.arm("puzzling")) == 1


def test_a_metric_whose_direction_no_row_has_is_an_error(folder):
    plan = played(STUDY, {}, folder)
    edited = evolve(plan.definition, metric="quarter/error")
    with pytest.raises(MtlError, match=r"'quarter/accuracy', and do not say whether more is bett"):
        report(Plan(edited, Results(plan.results.rows, edited)), "command")
    said = evolve(edited, higher_is_better=False)
    assert not Results(plan.results.rows, said).higher_is_better()


def test_compute_is_estimated_before_the_first_run(folder):
    (folder / "base.toml").write_text(CONFIG.replace("batch_size = 8", ""))
    study = Study.load(written(folder, f"forwards_per_cpu_s = 32.0\n{STUDY}"))
    assert set(study.plan().cpu_s.values()) == {3 * 64 / 32.0}  # 64: the default batch_size


# -------------------------------------------------------------------------------------- the tables


def test_a_verdict_needs_an_interval_without_0(folder):
    text = STUDY.replace("[0, 1]", "[0, 1, 2]").replace(
        "[arms.puzzling]", '[arms.noisy]\nset = ["optimizer.lr=0.1"]\n[arms.puzzling]'
    )
    values = {
        "supervised": [0.5, 0.51, 0.52],
        "puzzling": [0.6, 0.612, 0.619],
        "noisy": [0.6, 0.45, 0.56],
    }
    shown = str(report(played(text, values, folder), "command"))
    (better,) = [line for line in shown.splitlines() if line.endswith("| better |")]
    assert better.startswith("| puzzling | supervised | 3 | +10.03 [")
    (open_,) = [line for line in shown.splitlines() if "more seeds would decide" in line]
    assert open_.startswith("| noisy | supervised | 3 | +2.67 [-")


def test_differences_that_are_equal_but_for_the_digits_of_a_row_decide_nothing(folder):
    """One of 60 images at each seed: the rows have 0.316667, 0.333333 and 0.35."""
    values = {}
    for arm, first in (("supervised", 19), ("puzzling", 20)):
        rows = [rounded({"quarter/accuracy": (first + seed) / 60}) for seed in range(3)]
        values[arm] = [row["quarter/accuracy"] for row in rows]
    shown = str(report(played(STUDY.replace("[0, 1]", "[0, 1, 2]"), values, folder), "command"))
    (line,) = [line for line in shown.splitlines() if line.startswith("| puzzling | supervised")]
    assert "not decided: the differences are equal for all seeds" in line


def test_arms_that_saw_other_data_with_one_seed_are_named(folder):
    plan = played(STUDY, {}, folder)
    settings = {"set": [], "data": "d1"}
    same = edited_rows(plan, lambda row: settings)
    assert "NOT THE SAME DATA" not in str(report(same, "command"))

    def changed(row: dict) -> dict:
        later = row["arm"] == "puzzling" and row["seed"] == 1
        return settings | {"data": "d2"} if later else settings

    found = str(report(edited_rows(plan, changed), "command"))
    [line] = [line for line in found.splitlines() if line.startswith("NOT THE SAME DATA")]
    assert "(main, seed 1: supervised" in line
    assert "| puzzling)" in line
    # An arm with another task reads other labels.
    tasks = edited_rows(plan, lambda row: changed(row) | {"set": [f"task.{row['arm']}.weight=1"]})
    assert "NOT THE SAME DATA" not in str(report(tasks, "command"))


def test_a_seed_that_diverged_is_counted_and_named(folder):
    plan = played(STUDY, {}, folder)
    rows = list(plan.results.rows)
    rows[1] = rows[1] | {"failed": "20 steps in a row", "validation": {}, "diverged": True}
    shown = str(report(Plan(plan.definition, Results(rows, plan.definition)), "command"))
    assert "| puzzling | 1 of 2 | 3 |" in shown
    assert "Without a result: main-puzzling-0-0-3: 20 steps in a row" in shown
    assert "not decided: seed 0 has no result" in shown


EXTRA = '[[extras]]\nname = "hard"\narms = ["supervised", "puzzling"]\nseeds = [0, 1]\n'


def edited_rows(plan: Plan, change: Callable[[dict], dict]) -> Plan:
    rows = [row | change(row) for row in plan.results.rows]
    return Plan(plan.definition, Results(rows, plan.definition))


def test_an_error_of_an_extra_is_not_shown_in_points_unless_it_has_a_scale(folder, subtests):
    plan = played(STUDY + EXTRA, {}, folder)
    for scale, higher, value, shown in [
        (None, False, 0.25, "0.2500 +- 0.0000"),
        (None, True, 0.25, "25.00 +- 0.00"),
        (None, True, 25.0, "25.0000 +- 0.0000"),
        (1000.0, False, 0.25, "250.00 +- 0.00"),
    ]:
        with subtests.test(scale=scale, higher=higher, value=value):
            measured = {"higher_is_better": higher, "validation": {"quarter/accuracy": value}}
            edited = edited_rows(plan, lambda row, new=measured: new)
            extras = tuple(evolve(extra, scale=scale) for extra in plan.definition.extras)
            study = evolve(plan.definition, extras=extras)
            (table,) = Tables(Plan(study, edited.results)).extras()
            assert table.rows[0][:3] == ("supervised", "2", shown)


def test_an_extra_whose_runs_diverged_in_their_pretraining_has_a_table(folder, subtests):
    plan = played(STUDY + EXTRA, {}, folder)
    for diverged in (1, 4):  # the first one, all of them
        rows = [dict(row) for row in plan.results.rows]
        for row in [row for row in rows if row["stage"] == "hard"][:diverged]:
            del row["metric"], row["higher_is_better"]
            row |= {"failed": "20 steps in a row", "validation": {}, "diverged": True}
        with subtests.test(diverged=diverged):
            (table,) = Tables(Plan(plan.definition, Results(rows, plan.definition))).extras()
            assert table.columns[2] == "quarter/accuracy on validation"
            assert table.rows[1][1] == ("2" if diverged == 1 else "0")


def test_the_test_error_of_a_trial_that_is_not_chosen_is_not_shown_in_points(folder):
    trials = 'trials = [["optimizer.lr=0.1"], ["optimizer.lr=0.2"]]\n'
    text = STUDY.replace("[arms.puzzling]\n", f"[arms.puzzling]\n{trials}")
    plan = edited_rows(
        played(text, {}, folder),
        lambda row: {
            "higher_is_better": False,
            "test": {"quarter/accuracy": 6.25} if row["stage"] == "main" else {},
            "validation": {"quarter/accuracy": 5.0 - row["trial"]},
        },
    )
    assert plan.trial(plan.arm("puzzling")) == 1
    shown = Tables(plan).superseded()
    assert "main-puzzling-0-0-3 6.2500, main-puzzling-0-1-3 6.2500." in shown


# ---------------------------------------------------------------------------------------- the runs


def test_a_study_runs_is_edited_and_is_read_on_test(folder):
    """One story, since each of its runs is trained: rows, edits, table, test, again."""
    study = mtlcore.Study.load(written(folder, STUDY.replace("[0, 1]", "[0]")))
    assert len(study.plan().left) == 2
    with pytest.raises(MtlError, match="2 runs are left, so the test split is not read"):
        study.table(test=True)
    said: list[str] = []
    study.run(say=said.append)
    assert str(study.plan()) == "all 2 runs are done"
    assert [line.partition(":")[0] for line in said[::2]] == ["run 1 of 2", "run 2 of 2"]
    first, second = rows_of(study)
    assert second["encoded"] == 2 * first["encoded"]
    assert not any(key.startswith("test") for key in first)
    assert (study.folder / "table.csv").read_text().startswith("arm,seeds,steps")

    # The test split is read once: a second look evaluates nothing and records nothing.
    table = study.table(test=True)
    assert "test, last step" in str(table)
    reads = study.folder / "test_reads.jsonl"
    (read_once,) = map(json.loads, reads.read_text().splitlines())
    assert read_once["arms"] == {"supervised": 0, "puzzling": 0}
    evaluated = (study.folder / "test.jsonl").read_text()
    study.table(test=True)
    assert (study.folder / "test.jsonl").read_text() == evaluated
    assert len(reads.read_text().splitlines()) == 1

    # An edited arm: its row no longer counts, its run folder is kept, and nothing else is trained.
    edited = STUDY.replace("[0, 1]", "[0]").replace("grid=2", "grid=3")
    study = Study.load(written(folder, edited))
    assert [run.arm.name for run in study.plan().left] == ["puzzling"]
    said.clear()
    study.run(say=said.append)
    assert "the study was edited since its last run:" in said
    assert any("arms.puzzling.set" in line and "grid=3" in line for line in said)
    assert "1 row no longer counts, because the study was edited:" in said
    assert len(rows_of(study)) == 3
    assert (study.folder / "runs" / "main-puzzling-0-0-3.old-1" / "config.toml").exists()
    with pytest.warns(SecondReadWarning, match="read before by another choice"):
        study.table(test=True)
    assert json.loads(reads.read_text().splitlines()[1])["earlier"] == 1

    # The edit is undone: the first row counts again, but the run folder is that of the second one.
    (study.folder / "test.jsonl").unlink()
    with pytest.raises(MtlError, match=r"If main-puzzling-0-0-3.old-1 \(or -2, ...\) is the run"):
        Study.load(written(folder, STUDY.replace("[0, 1]", "[0]"))).table(test=True)

    # A base configuration that changed afterwards: no row counts any more.
    repeated = study.again("main-supervised-0-0-3")
    assert repeated.same
    assert differences(repeated.before, repeated.now | {"weights": "x"}) == ["weights"]
    (folder / "base.toml").write_text(CONFIG.replace("batch_size = 8", "batch_size = 4"))
    stale = Study.load(written(folder, edited)).plan().stale
    assert {old.name for old in stale} == {"main-supervised-0-0-3", "main-puzzling-0-0-3"}


@pytest.mark.slow
def test_an_edited_pretraining_is_trained_again_and_its_second_part_too(folder):
    text = STUDY.replace("[0, 1]", "[0]")
    text += '[arms.puzzling.pretraining]\nshare = 0.4\nset = ["optimizer.lr=0.01"]\n'
    Study.load(written(folder, text)).train(say=lambda line: None, arms=["puzzling"])
    study = Study.load(written(folder, text.replace("0.01", "0.03")))
    assert [old.name for old in study.plan().stale] == ["main-puzzling-0-0-3"]
    said: list[str] = []
    study.train(say=said.append, arms=["puzzling"])
    before, now = rows_of(study)
    assert before["weights"] != now["weights"]
    runs = study.folder / "runs"
    for part in ("main-puzzling-0-0-3", "main-puzzling-0-0-3-pretraining"):
        assert (runs / f"{part}.old-1" / "config.toml").exists()
        assert any(line.startswith(f"{part} was started with other settings") for line in said)

    # A configuration beside the run that was cut off: the run is made again, and this is said.
    (runs / "main-puzzling-0-0-3.toml").write_text('[encoder\nname = "resn')
    (study.folder / "runs.jsonl").unlink()
    study.train(say=said.append, arms=["puzzling"])
    assert any("(its configuration is damaged): now" in line for line in said)
    (again,) = rows_of(study)
    assert (again["weights"], again["encoded"]) == (now["weights"], now["encoded"])


def test_another_split_of_an_extra_is_read_anew(folder):
    text = STUDY.replace("[0, 1]", "[0]")
    text += '[[extras]]\nname = "hard"\narms = ["supervised"]\nseeds = [0]\nsplit = "SPLIT"\n'
    study = Study.load(written(folder, text.replace("SPLIT", "test")))
    study.train(say=lambda line: None)
    study.table(test=True)
    edited = Study.load(written(folder, text.replace("SPLIT", "validation")))
    with pytest.warns(SecondReadWarning, match="read before by another choice"):
        edited.table(test=True)
    lines = map(json.loads, (study.folder / "test.jsonl").read_text().splitlines())
    assert [line["split"] for line in lines if line["key"][0] == "hard"] == ["test", "validation"]


FAILS = """
from attrs import frozen
from mtlcore import PretextTask, hookimpl

@frozen
class Fails(PretextTask):
    def views(self, batch, rng):
        raise ValueError("it can't")
    def build(self, context):
        raise ValueError("it can't")

@hookimpl
def mtl_components():
    return [Fails]
"""


def test_an_arm_that_fails_does_not_end_the_study_and_is_tried_again(folder):
    (folder / "fails.py").write_text(FAILS)
    text = f'plugins = ["fails.py"]\n{STUDY}[arms.fails]\nset = ["pretext.fails.weight=1.0"]\n'
    study = Study.load(written(folder, text.replace("[0, 1]", "[0]")))
    found = study.run(say=lambda line: None)
    (why,) = found.errors.values()
    assert "it can't" in why
    assert "main-fails-0-0-3" in str(found)
    left = study.plan()
    assert [run.arm.name for run in left.left] == ["fails"]
    assert left.ended == 2


def test_an_error_of_two_arms_is_not_theirs_and_ends_the_study(folder):
    config = folder / "base.toml"
    config.write_text(CONFIG.replace("n = 60", "n = 60\nbad = 50\nmax_bad = 1"))
    study = Study.load(written(folder))
    with pytest.raises(MtlError, match="max_bad"):
        study.run(say=lambda line: None)
    assert len(rows_of(study)) == 2


# ------------------------------------------------------------------------------------ a new study


def test_a_new_study_has_an_arm_for_each_pretext_and_one_without(folder):
    (folder / "base.toml").write_text(CONFIG + "[pretext.puzzling]\ngrid = 2\n")
    file = folder / "new.toml"
    vary = ["pretext=puzzling,rotation", "train.ema=0,0.9"]
    study = new_study(folder / "base.toml", vary, file, tune=["optimizer.lr=0.1,0.2"], seeds=2)
    assert study.arms.keys() == {
        *("supervised_ema_0", "supervised_ema_0.9", "puzzling_ema_0"),
        *("puzzling_ema_0.9", "rotation_ema_0", "rotation_ema_0.9"),
    }
    again = read(file)
    assert again.arms["rotation_ema_0"].set == (
        *("pretext.puzzling.weight=0", "pretext.rotation.weight=1.0", "train.ema=0"),
    )
    assert again.arms["puzzling_ema_0"].trials == (("optimizer.lr=0.1",), ("optimizer.lr=0.2",))
    assert (again.seeds, again.baseline) == ((0, 1), "supervised_ema_0")
    with pytest.raises(MtlError, match="exists already"):
        new_study(folder / "base.toml", vary, file)


def test_all_pretexts_of_a_new_study_read_the_same_images(folder):
    base = CONFIG + '[pretext.puzzling]\ngrid = 2\nsamples = "unlabeled"\n'
    (folder / "base.toml").write_text(base)
    new_study(folder / "base.toml", ["pretext=puzzling,rotation"], folder / "new.toml")
    assert 'pretext.rotation.samples="unlabeled"' in read(folder / "new.toml").arms["rotation"].set


def test_a_new_study_that_would_not_run_is_not_written(folder, subtests):
    for vary, message in [
        ("pretext=puzling", "did you mean 'puzzling'"),
        ("weighting=equal,schedul", "did you mean 'schedule'"),
        ("optimizer.lrr=1,2", "did you mean 'lr'"),
        ("input.size=16,32", 'differ = \\["input"\\]'),
    ]:
        with subtests.test(vary=vary):
            with pytest.raises(MtlError, match=message):
                new_study(folder / "base.toml", [vary], folder / "new.toml")
            assert not (folder / "new.toml").exists()
