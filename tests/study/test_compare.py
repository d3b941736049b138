"""`mtl compare` on real runs, trained once; their metrics are set where a test needs numbers."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from study_toys import DOTS, dots_run

from mtlcore import MtlError
from mtlcore.api import train
from mtlcore.cli import main
from mtlcore.config import load
from mtlcore.runs import RunFolder
from mtlcore.sealed import seal_toml
from mtlcore.study.compare import compare_runs

CONFIG = dots_run(1, 'balance = "inverse"\n[pretext.puzzling]\ngrid = 2\n')
METRIC = "quarter/accuracy"
BASE = (0.70, 0.71, 0.69)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with base-s0, base-s1, base-s2, and the same with puzzling; metrics are set."""
    folder = tmp_path_factory.mktemp("runs")
    config = folder.parent / f"{folder.name}.toml"
    config.write_text(CONFIG)
    for name, overrides in (("base", ["pretext.puzzling.weight=0"]), ("puzzling", [])):
        for seed in range(3):
            experiment = load(config, [*overrides, f"seed={seed}"], [DOTS])
            train(experiment, folder / f"{name}-s{seed}", progress=False)
            gain = {"base": 0.0, "puzzling": 0.05 + 0.001 * seed}[name]
            set_metrics(folder / f"{name}-s{seed}", BASE[seed] + gain)
    return folder


@pytest.fixture
def runs(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def set_metrics(run: Path, accuracy: float, **entries) -> None:
    metrics = {METRIC: accuracy, "quarter/macro_f1": 1 - accuracy}
    RunFolder(run).update_provenance({"validation": metrics, **entries})


def mtl(capsys, *words) -> tuple[int, str, str]:
    code = main(["compare", *map(str, words)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_runs_are_grouped_by_their_settings_and_paired_by_seed(runs) -> None:
    found = compare_runs([runs])
    assert (found.baseline, found.split) == ("base", "validation")
    assert found.values[METRIC] == {
        "base": {0: 0.70, 1: 0.71, 2: 0.69},
        "puzzling": pytest.approx({0: 0.75, 1: 0.761, 2: 0.742}),
    }
    (compared,) = found.comparisons[METRIC]
    assert (compared.verdict, compared.difference.n) == ("better", 3)
    assert compared.difference.mean == pytest.approx(0.051)
    assert found.different == {"puzzling": {"pretext.puzzling": "only in puzzling"}}
    assert [note for note in found.notes if "images" not in note] == []
    assert "puzzling encodes 2.00 times as many images as base" in found.notes[0]


def test_runs_of_a_study_have_its_arms_and_its_baseline(runs) -> None:
    for arm in ("base", "puzzling"):
        for seed in range(3):
            (runs / f"{arm}-s{seed}").rename(runs / f"main-{arm}-0-{seed}-1")
    (runs / "study.toml").write_text('baseline = "puzzling"\n')
    found = compare_runs([runs])
    assert (found.baseline, [arm.name for arm in found.arms]) == ("puzzling", ["base", "puzzling"])


def test_trials_extras_and_pretraining_of_a_study_are_left_out(runs, tmp_path, subtests) -> None:
    study = tmp_path / "study"
    study.mkdir()
    runs = runs.rename(study / "runs")
    (study / "runs.jsonl").touch()
    for arm in ("base", "puzzling"):
        for seed in range(3):
            run = (runs / f"{arm}-s{seed}").rename(runs / f"main-{arm}-0-{seed}-1")
            # With the same settings and seed as the run.
            for other in (f"tune-{arm}-0-{seed}-1", f"hard-{arm}-0-{seed}-1"):
                shutil.copytree(run, runs / other)
    shutil.copytree(run, runs / f"{run.name}-pretraining")
    shutil.copytree(run, runs / f"{run.name}.old-1")
    for path in (study, runs):
        with subtests.test(path=path.name):
            assert [arm.name for arm in compare_runs([path]).arms] == ["base", "puzzling"]
    for run in runs.glob("main-*"):
        shutil.rmtree(run)
    with pytest.raises(MtlError, match="has no full-length run of an arm yet"):
        compare_runs([study])


def test_the_seeds_of_an_arm_with_pretraining_stay_one_arm(runs, tmp_path) -> None:
    """Each of its runs starts from weights of its own, and their compute counts."""
    for arm in ("base", "puzzling"):
        for seed in range(3):
            (runs / f"{arm}-s{seed}").rename(runs / f"main-{arm}-0-{seed}-1")
    for seed in range(3):
        run = runs / f"main-puzzling-0-{seed}-1"
        start_from(run, shutil.copytree(run, runs / f"{run.name}-pretraining"))
    (runs.parent / "runs.jsonl").touch()
    found = compare_runs([runs])
    assert {arm.name: list(arm.runs) for arm in found.arms} == {
        "base": [0, 1, 2],
        "puzzling": [0, 1, 2],
    }
    assert "train.init_from" in found.different["puzzling"]
    assert any("puzzling encodes 4.00 times as many images" in note for note in found.notes)

    shutil.rmtree(runs / "main-puzzling-0-1-1-pretraining")
    with pytest.raises(MtlError, match="main-puzzling-0-1-1-pretraining"):
        compare_runs([runs])


def start_from(run: Path, first_part: Path) -> None:
    config = run / "config.toml"
    text = config.read_text().partition("\n")[2]
    text, number = re.subn(r"(?m)^\[train\]$", f'[train]\ninit_from = "{first_part}"', text)
    assert number == 1
    config.write_text(seal_toml(text))


def set_cache_size(run: Path, size: int) -> None:
    config = run / "config.toml"
    text, number = re.subn(r"(?m)^cache_size = .*$", f"cache_size = {size}", config.read_text())
    assert number == 1
    config.write_text(seal_toml(text.partition("\n")[2]))


def test_a_cache_size_that_depends_on_the_seed_does_not_tear_seeds_apart(runs) -> None:
    for run in (runs / "base-s1", runs / "puzzling-s1"):
        set_cache_size(run, 17)
    found = compare_runs([runs])
    assert [list(arm.runs) for arm in found.arms] == [[0, 1, 2], [0, 1, 2]]
    assert found.different == {"puzzling": {"pretext.puzzling": "only in puzzling"}}


def test_cache_sizes_are_compared_at_equal_seeds(runs) -> None:
    for seed in range(3):
        shutil.rmtree(runs / f"puzzling-s{seed}")
        shutil.copytree(runs / f"base-s{seed}", runs / f"large-s{seed}")
        set_cache_size(runs / f"large-s{seed}", 17)
    found = compare_runs([runs])
    assert [(arm.name, list(arm.runs)) for arm in found.arms] == [
        ("base", [0, 1, 2]),
        ("large", [0, 1, 2]),
    ]
    assert found.different["large"]["input.cache_size"].startswith("17 in large")


def test_several_metrics_are_corrected_together_and_each_has_its_direction(runs) -> None:
    found = compare_runs([runs], metrics=["quarter/macro_f1", METRIC], baseline="puzzling")
    alone = compare_runs([runs], metrics=[METRIC], baseline=runs / "puzzling-s1")
    (both,), (one,) = found.comparisons[METRIC], alone.comparisons[METRIC]
    assert (both.arm, both.verdict, one.verdict) == ("base", "worse", "worse")
    assert both.p_holm == pytest.approx(2 * one.p_holm)
    assert found.comparisons["quarter/macro_f1"][0].verdict == "better"


def test_a_run_without_a_result_leaves_its_arm_undecided(runs) -> None:
    RunFolder(runs / "puzzling-s1").update_provenance({}, remove=["finished"])
    found = compare_runs([runs])
    (compared,) = found.comparisons[METRIC]
    assert (compared.verdict, compared.difference.n) == ("not decided", 2)
    assert "seed 1 has no result" in compared.text
    assert math.isnan(found.values[METRIC]["puzzling"][1])
    assert "puzzling-s1 is not finished" in found.notes[0]
    RunFolder(runs / "puzzling-s1").update_provenance({"diverged": "30 steps"})
    assert "puzzling-s1 diverged" in compare_runs([runs]).notes[0]


def test_what_must_be_equal_is_told_unless_it_is_compared_on_purpose(runs, tmp_path) -> None:
    config = tmp_path / "wide.toml"
    config.write_text(CONFIG.replace("width = 2", "width = 3"))
    train(load(config, ["train.steps=2"], [DOTS]), tmp_path / "wide", progress=False)
    all_runs = [runs, tmp_path / "wide"]
    notes = "\n".join(compare_runs(all_runs, baseline="runs/puzzling").notes)
    assert "encoder.width differs: 3 in wide, 2 in runs/puzzling" in notes
    assert "train.steps differs: 2 in wide, 1 in runs/puzzling" in notes
    assert "has seed 1, 2: their difference leaves it out" in notes
    found = compare_runs(all_runs, baseline="runs/puzzling", vary=["encoder"])
    assert "encoder.width" not in "\n".join(found.notes)
    assert found.different["wide"]["encoder.width"] == "3 in wide, 2 in runs/puzzling"


def test_other_data_with_the_same_settings_and_other_versions_are_told(runs) -> None:
    RunFolder(runs / "puzzling-s1").update_provenance(
        {"data_fingerprint": "other", "versions": {"torch": "0.1"}}
    )
    notes = "\n".join(compare_runs([runs]).notes)
    assert "the data of puzzling and base differ at seed 1, with the same settings" in notes
    assert "the runs differ in torch" in notes


def test_the_test_split_is_measured_once_and_each_reading_is_recorded(runs) -> None:
    few = [runs / f"{name}-s{seed}" for name in ("base", "puzzling") for seed in (0, 1)]
    found = compare_runs(few, split="test")
    assert not any("read before" in note for note in found.notes)
    record = RunFolder(few[0]).provenance()["test"]
    assert record["metrics"][METRIC] == found.values[METRIC]["base"][0]
    assert len(record["read"]) == 1
    shutil.rmtree(few[0] / "checkpoints")  # it is not measured again
    again = compare_runs(few, split="test")
    assert again.values == found.values
    assert f"4 of these runs was read before, first on {record['read'][0]}" in again.notes[0]
    assert len(RunFolder(few[0]).provenance()["test"]["read"]) == 2


@pytest.mark.parametrize(
    ("pick", "options", "message"),
    [
        (["base-s0", "base-s1"], {}, r"differ only by seed, so they are one arm \(base\)"),
        (["base-s0", "copy", "puzzling-s0"], {}, r"base-s0 and .*copy have the same settings and"),
        (["nowhere"], {}, "nowhere: there is no such folder"),
        (["base-s0/checkpoints"], {}, "neither a run nor a folder of runs"),
        ([], {}, "no run given"),
        ([""], {"metrics": ["quarter/acuracy"]}, "did you mean 'quarter/accuracy'"),
        ([""], {"baseline": "bse"}, "did you mean 'base'"),
        ([""], {"split": "train"}, "split = 'train': unknown"),
    ],
)
def test_runs_that_can_not_be_compared_are_an_error(runs, pick, options, message) -> None:
    if "copy" in pick:
        shutil.copytree(runs / "base-s0", runs / "copy")
    with pytest.raises(MtlError, match=message):
        compare_runs([runs / name for name in pick], **options)


def test_the_command_prints_tables_and_writes_a_plot(runs, capsys, tmp_path) -> None:
    code, out, err = mtl(capsys, runs, "--plot", tmp_path / "plot.png")
    assert code == 0
    assert "| puzzling | quarter/accuracy | 3 | +0.0510 [" in out
    assert out.rstrip().endswith("| puzzling | pretext.puzzling | only in puzzling |")
    assert err.startswith("mtl: note: puzzling encodes")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    _, out, _ = mtl(capsys, runs, "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert [(row["arm"], row["verdict"]) for row in rows] == [("base", ""), ("puzzling", "better")]
    assert float(rows[1]["difference"]) == pytest.approx(0.051)
    _, out, _ = mtl(capsys, runs, "--format", "latex")
    assert out.count(r"\toprule") == 3
    _, out, _ = mtl(capsys, runs, "--json")
    assert json.loads(out)["comparisons"][METRIC][0]["verdict"] == "better"
    code, _, err = mtl(capsys, runs, "--plot", "plot.jpg")
    assert (code, ".svg" in err) == (2, True)
