"""The report of a study: from rows that were made up, complete and half done."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_toys import CONFIG, page_of

from mtlcore.cli import main
from mtlcore.study.results import key_of
from mtlcore.study.study import Study
from mtlcore.study.workspace import append_line

STUDY = """
config = "base.toml"
seeds = [0, 1, 2]
[arms.supervised]
set = ["pretext.puzzling.weight=0", "pretext.rotation.weight=0"]
[arms.puzzling]
set = ["pretext.rotation.weight=0"]
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "base.toml").write_text(CONFIG)
    (tmp_path / "grids.toml").write_text(STUDY)
    return Study.load(tmp_path / "grids.toml")


def play(study: Study, values: dict[str, list[float]]) -> None:
    """Write rows of runs with these validation metrics, by arm and seed."""
    workspace = study.workspace
    for run in workspace.plan().left():
        if run.seed < len(values.get(run.arm.name, [])):
            row = {"stage": run.stage, "arm": run.arm.name, "trial": run.trial}
            row |= {"seed": run.seed, "steps": run.steps, "encoded": 64, "cpu_s": 1.0}
            row |= {"device": "cpu", "metric": "quarter/accuracy", "higher_is_better": True}
            row |= {"set": workspace.settings(run), "settings": workspace.settings_hash(run)}
            value = {"quarter/accuracy": values[run.arm.name][run.seed]}
            workspace.append({**row, "validation": value})


def test_a_study_shows_its_arms_with_intervals_and_verdicts(study, capsys) -> None:
    play(study, {"supervised": [0.50, 0.52, 0.51], "puzzling": [0.60, 0.625, 0.61]})
    folder = study.folder
    assert main(["report", str(folder), "--out", str(folder.parent / "a.html")]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    page = page_of(folder.parent / "a.html")
    assert "It is complete." in page.text
    assert "puzzling: better" in page.text
    assert study.table().arms.rows[1][-1] == "better"
    assert "+10.17" in page.text
    assert len(page.all("svg")) == 2
    assert "pretext.rotation.weight=0" in page.text
    assert "log_every = 1" in page.text  # the base configuration
    assert study.file is not None
    study.file.write_bytes(STUDY.encode("utf-16"))
    Study.load(study.file).report(folder.parent / "a.html")
    assert "pretext.rotation.weight=0" in page_of(folder.parent / "a.html").text


def test_a_study_shows_the_test_metrics_that_were_read(study) -> None:
    play(study, {"supervised": [0.5, 0.51, 0.52], "puzzling": [0.6, 0.625, 0.61]})
    page = page_of(study.report(study.folder.parent / "a.html"))
    assert "test, last step" not in page.text
    assert not (study.folder / "test_reads.jsonl").exists()
    for row in study.workspace.sorted_rows().ended:
        line = {"key": key_of(row), "weights": None, "test": {"quarter/accuracy": 0.25}}
        append_line(study.folder / "test.jsonl", line)
    page = page_of(study.report(study.folder.parent / "a.html"))
    assert "test, last step" in page.text
    assert "25.00 +- 0.00" in page.text


def test_a_study_that_is_half_done_shows_what_is_left(study) -> None:
    play(study, {"supervised": [0.5, 0.6]})
    page = page_of(study.report(study.folder.parent / "a.html"))
    assert "2 of 6 runs are done" in page.text
    assert "Not shown: verdicts" in page.text
    assert "main-puzzling-0-2-4" in page.text
    assert "supervised (n = 2)" in page.text


def test_a_study_without_a_run_has_a_report(study) -> None:
    page = page_of(study.report(study.folder.parent / "a.html"))
    assert "Not shown: the table of the arms" in page.text
    assert "0 of 6" in page.text


def test_options_of_a_run_are_refused_for_a_study(study, capsys) -> None:
    out = ["--out", str(study.folder.parent / "a.html"), "--split", "test"]
    assert main(["report", str(study.file), *out]) == 2
    assert "--split and --set are options of a run" in capsys.readouterr().err
