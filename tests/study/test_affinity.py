"""`mtl affinity`: a study of pretexts, and what it says about each task."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_toys import PLUGIN, dots_run

from mtlcore import MtlError
from mtlcore.cli import main
from mtlcore.study.affinity import affinity, affinity_study
from mtlcore.study.workspace import append_line

AGAIN = '[task.again]\nname = "classification"\nreads = "quarter"\n'
CONFIG = PLUGIN + dots_run(1, f"{AGAIN}[pretext.puzzling]\ngrid = 2\n")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "base.toml"
    file.write_text(CONFIG)
    return file


def test_each_pretext_is_compared_on_each_task_and_more_seeds_extend_the_study(
    config, capsys
) -> None:
    words = ["affinity", str(config), "--pretexts", "puzzling,rotation"]
    assert main([*words, "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    for task in ("quarter", "again"):
        for pretext in ("puzzling", "rotation"):
            assert f"| {task} | {pretext} | accuracy | 0." in out
    assert "| 1 | " in out
    assert "not decided: one pair of runs has no spread" in out
    assert main([*words, "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "run 4 of 6" in out  # the three runs of seed 0 still count


def test_all_pairs_are_corrected_together(config) -> None:
    study = affinity_study(config, config.parent / "a.toml", pretexts=["puzzling"], seeds=3)
    study.train(say=lambda _: None, arms=["supervised"])
    base = [row["validation"] for row in study.workspace.rows()]
    rows = [row | {"arm": "puzzling"} for row in study.workspace.rows()]
    for run, row in zip(
        [r for r in study.workspace.plan().left() if r.arm.name == "puzzling"], rows
    ):
        row |= {
            "set": study.workspace.settings(run),
            "settings": study.workspace.settings_hash(run),
        }
        gain = 0.2 + 0.001 * row["seed"]
        validation = base[row["seed"]]
        row["validation"] = {
            "quarter/accuracy": validation["quarter/accuracy"] + gain,
            "again/accuracy": validation["again/accuracy"] - 0.1 * row["seed"],
        }
        append_line(study.workspace.file, row)
    found = affinity(study)
    (helped,), (other,) = found.comparisons["quarter/accuracy"], found.comparisons["again/accuracy"]
    assert (helped.verdict, other.verdict) == ("better", "not decided")
    assert helped.p_holm == pytest.approx(2 * helped.p)


def test_an_interrupted_call_keeps_the_earlier_study(config, monkeypatch) -> None:
    file = config.parent / "a.toml"
    affinity_study(config, file, seeds=1)
    before = file.read_bytes()

    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mtlcore.study.new.prepared", stopped)
    with pytest.raises(KeyboardInterrupt):
        affinity_study(config, file, seeds=2)
    assert file.read_bytes() == before
    assert {path.name for path in config.parent.iterdir()} == {"base.toml", "a.toml"}


def test_a_configuration_without_tasks_or_pretexts_is_an_error(config) -> None:
    file = config.parent / "study.toml"
    file.write_text("# my own\n")
    with pytest.raises(MtlError, match=r"not written by `mtl affinity`: choose another --out"):
        affinity_study(config, file)
    with pytest.raises(MtlError, match="puzling"):
        affinity_study(config, config.parent / "a.toml", pretexts=["puzling"])
    assert not (config.parent / "a.toml").exists()
    config.write_text(CONFIG.replace("[pretext.puzzling]\ngrid = 2", ""))
    with pytest.raises(MtlError, match=r"has no \[pretext.<label>\]: name some"):
        affinity_study(config, config.parent / "a.toml")
