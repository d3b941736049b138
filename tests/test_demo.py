"""`mtl demo`: a study of two arms that differ in their pretexts and in their unlabeled samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from mtl_faces.emotion import mtl_examples

from mtlcore import MtlError
from mtlcore.cli import main
from mtlcore.config import load
from mtlcore.demo import HMTL, SL, next_folder, write_demo

EXAMPLE = mtl_examples()["demo"]
TINY = (
    "data.synthfaces.train=160",
    "data.synthfaces.test=24",
    "data.synthfaces.labels=0.5",
    "encoder.width=2",
    "input.batch_size=8",
    "schedule.warmup=0",
    "train.steps=2",
)


def test_the_arms_share_all_but_the_pretexts_and_the_unlabeled_samples(tmp_path: Path) -> None:
    demo = write_demo(tmp_path / "new" / "demo", EXAMPLE, TINY)
    study = demo.study.definition
    assert [run.name for run in demo.study.plan().left][:2] == [
        f"main-{SL}-0-0-2",
        f"main-{HMTL}-0-0-2",
    ]
    assert len(study.seeds) == 3
    arms = {
        name: load(study.config, [*arm.set, *study.settings]) for name, arm in study.arms.items()
    }
    assert not arms[SL].pretexts
    assert arms[HMTL].pretexts == demo.experiment.pretexts
    assert arms[SL].tasks == arms[HMTL].tasks
    assert arms[SL].input == arms[HMTL].input
    assert arms[SL].data["synthfaces"].unlabeled == "drop"
    assert arms[HMTL].data["synthfaces"].unlabeled == "keep"


def test_an_existing_folder_and_a_wrong_key_are_refused_and_nothing_is_written(tmp_path) -> None:
    (tmp_path / "demo-1").mkdir()
    with pytest.raises(MtlError, match="demo-1: exists already"):
        write_demo(tmp_path / "demo-1", EXAMPLE)
    folder = next_folder(tmp_path)
    assert folder == tmp_path / "demo-2"
    with pytest.raises(MtlError, match="stepz"):
        write_demo(folder, EXAMPLE, ["train.stepz=2"])
    with pytest.raises(MtlError, match="--set seed=5: the demo trains the seeds 0, 1, 2"):
        write_demo(folder, EXAMPLE, ["seed=5"])
    assert not folder.exists()


@pytest.mark.slow
def test_the_demo_trains_compares_draws_and_says_what_to_try_next(tmp_path, capsys) -> None:
    folder = tmp_path / "demo"
    words = [word for setting in TINY for word in ("--set", setting)]
    assert main(["demo", "--out", str(folder), *words]) == 0
    shown = capsys.readouterr().out
    assert "run 6 of 6: main-HMTL-0-2-2" in shown
    assert f"{HMTL} minus {SL}: " in shown
    assert "95 % t interval, 3 pairs" in shown
    assert f"{folder / 'images' / '01.png'}  gender: " in shown
    assert len((folder / "study" / "test_reads.jsonl").read_text().splitlines()) == 1
    for name in ("sheet.png", "predictions.png", "report.html"):
        assert (folder / name).stat().st_size > 1000, name
    commands = shown.partition("try next:\n")[2].splitlines()
    assert [line.split()[1] for line in commands] == ["report", "study", "init"]
    assert "test, last step" in (folder / "report.html").read_text()
    assert main(["demo", "--out", str(folder)]) == 2
